// The browser example in a real Chromium. Prints one JSON object per line: what happened, and what the page shows each time it changes.
//
// Usage: node page.js --user U --password P --page DIRECTORY [--transport any|long-polling] [--chromium FILE]
// First it serves the page and prints `{"what":"serving","origin":…}`: the gateway has to allow that origin. The first line of the standard input is the gateway's URL.
// Later lines: `screenshot FILE` and `reload` (a page reload, then a new sign-in). It ends when its standard input ends.

import { mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";
import { say } from "./common.js";

const { values: asked } = parseArgs({
  options: {
    user: { type: "string" },
    password: { type: "string" },
    page: { type: "string" },
    transport: { type: "string", default: "any" },
    chromium: { type: "string", default: "/usr/bin/chromium" },
  },
});

const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8" };

/** The file of a request: the page's own, and the packages installed beside this script. */
async function file(path) {
  const relative = normalize(path === "/" ? "/index.html" : path);
  return relative.startsWith("/node_modules/") ? readFile(join(import.meta.dirname, relative)) : readFile(join(asked.page, relative));
}

const server = createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://page");
  try {
    const body = await file(pathname);
    response.writeHead(200, { "Content-Type": TYPES[extname(pathname) || ".html"] ?? "application/octet-stream" }).end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const origin = `http://127.0.0.1:${server.address().port}`;
say("serving", { origin });

const profile = mkdtempSync(join(tmpdir(), "page-"));
let browser;
let page;

async function signIn(gateway) {
  await page.fill("#gateway", gateway);
  await page.fill("#user", asked.user);
  await page.fill("#password", asked.password);
  await page.click("#submit");
}

/** Runs in the page: tells what it shows whenever that changes. */
function watch() {
  const text = (selector) => [...document.querySelectorAll(selector)].map((row) => [...row.cells].map((cell) => cell.textContent));
  let last = {};
  const look = () => {
    const state = document.getElementById("state");
    const now = {
      state: JSON.stringify([state.dataset.state, state.textContent]),
      devices: JSON.stringify(text("#devices tr[data-device]")),
      problem: JSON.stringify(document.getElementById("problem").textContent),
    };
    for (const name of Object.keys(now)) if (now[name] !== last[name]) window.seen(name, JSON.parse(now[name]));
    last = now;
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
}

function seen(name, value) {
  if (name === "devices" && value.length > 0) say("devices", { rows: value });
  if (name === "problem" && value) say("problem", { text: value });
  if (name !== "state") return;
  const [state, text] = value;
  if (state === "connected") say("connected", { transport: text.split(" ").pop() });
  if (state === "broken") say("broken", { text });
}

async function open(gateway) {
  browser = await chromium.launchPersistentContext(profile, {
    executablePath: asked.chromium,
    headless: true,
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
  page = browser.pages()[0] ?? (await browser.newPage());
  page.on("pageerror", (error) => say("error", { text: error.message }));
  page.on("console", (message) => message.type() === "error" && say("console", { text: message.text() }));
  await page.exposeFunction("seen", seen);
  await page.addInitScript(`addEventListener("DOMContentLoaded", ${watch})`);
  if (asked.transport === "long-polling") await page.addInitScript("delete window.WebSocket");
  await page.goto(origin);
  await signIn(gateway);
}

async function obey(line, gateway) {
  const [word, ...rest] = line.split(" ");
  if (word === "screenshot") {
    const file = rest.join(" ");
    await page.screenshot({ path: file, fullPage: true });
    say("screenshot", { file });
  }
  if (word === "reload") {
    await page.reload();
    await signIn(gateway);
  }
}

async function end() {
  const isThere = page && (await page.isVisible("#leave").catch(() => false));
  if (isThere) {
    const left = page.waitForEvent("load", { timeout: 5000 }).then(
      () => true,
      () => false,
    );
    await page.click("#leave");
    say("disconnected", { successful: await left });
  } else {
    say("disconnected", { successful: false });
  }
  await browser?.close();
  rmSync(profile, { recursive: true, force: true });
  process.exit(0);
}

let gateway;
for await (const line of createInterface({ input: process.stdin })) {
  if (gateway) await obey(line, gateway);
  else {
    gateway = line.trim();
    await open(gateway);
  }
}
await end();
