// Opens the page of the documents in a real Chromium. Prints one JSON object: what it shows, every URL that was asked for, and what went wrong.
//
// Usage: node page.js URL [SCREENSHOT]

import { chromium } from "playwright-core";

const [url, screenshot] = process.argv.slice(2);
const args = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args });
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
const [asked, wrong] = [[], []];
page.on("request", (request) => asked.push(request.url()));
page.on("pageerror", (error) => wrong.push(error.message));
page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
await page.goto(`${url}/api/v2/docs`);
await page.waitForSelector("html[data-state]");
const texts = (selector) => page.$$eval(selector, (found) => found.map((one) => one.textContent));
const shown = {
  state: await page.getAttribute("html", "data-state"),
  open: await page.$$eval("details[open]", (found) => found.map((one) => one.closest(".endpoint").querySelector("h3").textContent)),
  endpoints: await texts(".endpoint h3"),
  operations: await texts(".operation h4"),
  messages: await texts(".message h4"),
  coach: await page.textContent("#operation-operate_my_device-Coach"),
  dangling: await page.$$eval("a[href^='#']", (links) => links.map((link) => link.hash.slice(1)).filter((id) => !document.getElementById(id))),
};
if (screenshot) {
  await page.screenshot({ path: screenshot });
  await page.evaluate(() => document.getElementById("operation-operate_my_device-Coach").scrollIntoView());
  await page.screenshot({ path: screenshot.replace(".png", "-coach.png") });
}
await browser.close();
console.log(JSON.stringify({ asked, wrong, shown }));
