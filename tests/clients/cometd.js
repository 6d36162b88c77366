// The npm `cometd` client, as desktops run it. Prints one JSON object per line: what happened to the connection, and each event as received.
//
// Usage: node cometd.js --url URL --user U --password P [--version 9|3] [--transport long-polling|websocket|any] --channels /a,/b
//                       [--ack] [--replay [--from N]] [--reload-file FILE]
// It disconnects and ends when its standard input ends; the line `reload` is a page reload: it ends at once, and the next start with the same file goes on.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { adapt } from "cometd-nodejs-client";
import { leave, listen, options, say } from "./common.js";

const asked = options({
  version: { type: "string", default: "9" },
  replay: { type: "boolean", default: false },
  from: { type: "string" },
  "reload-file": { type: "string" },
});

const stored = storage(asked["reload-file"]);
const authorization = { Authorization: asked.authorization };

// One cookie jar for requests and sockets, which outlives a reload: as in a browser.
const cookies = () => Object.values(JSON.parse(stored.getItem("cookies") ?? "{}"));
function storeCookie(header) {
  const [pair] = header.split(";");
  const jar = JSON.parse(stored.getItem("cookies") ?? "{}");
  stored.setItem("cookies", JSON.stringify({ ...jar, [pair.split("=")[0]]: pair }));
}
adapt({
  cookies: {
    storeCookie(_url, header, done) {
      storeCookie(header);
      done();
    },
    retrieveCookies: (_context, _url, done) => done(null, cookies()),
  },
});
const Socket = window.WebSocket;
window.WebSocket = class extends Socket {
  constructor(url, protocols) {
    const cookie = cookies().join("; ");
    // A page's socket is let in by its cookie; a program's first one needs its credentials.
    super(url, protocols, { headers: { ...authorization, ...(cookie && { Cookie: cookie }) } });
    this.on("upgrade", (response) => response.headers["set-cookie"]?.forEach(storeCookie));
  }
};

async function library() {
  if (asked.version !== "3") return import("cometd");
  const require = createRequire(import.meta.url);
  return {
    CometD: require("cometd3").CometD,
    AckExtension: require("cometd3/AckExtension"),
    ReloadExtension: require("cometd3/ReloadExtension"),
  };
}

/** A session storage, which outlives the process where there is a file for it. */
function storage(file) {
  const items = new Map(file && existsSync(file) ? Object.entries(JSON.parse(readFileSync(file, "utf8"))) : []);
  const save = () => file && writeFileSync(file, JSON.stringify(Object.fromEntries(items)));
  return {
    getItem: (name) => items.get(name) ?? null,
    setItem(name, value) {
      items.set(name, value);
      save();
    },
    removeItem(name) {
      items.delete(name);
      save();
    },
  };
}

/**
 * Asks at each subscription for what came after the last event that was heard. The first one asks for nothing that was (-1), and learns from
 * the answer after which number it begins: there may be no event at all before the session is lost.
 */
function replay(from) {
  const last = () => stored.getItem("replay") ?? from;
  return {
    incoming(message) {
      const said = message.ext?.replay;
      const number = message.channel === "/meta/subscribe" && last() === undefined ? said?.last : said;
      if (typeof number === "number" && !(number <= last())) stored.setItem("replay", number);
    },
    outgoing(message) {
      if (message.channel === "/meta/subscribe") message.ext = { ...message.ext, replay: last() ?? -1 };
    },
  };
}

const { CometD, AckExtension, ReloadExtension } = await library();
const client = new CometD();
for (const name of client.getTransportTypes()) {
  const isWanted = asked.transport === "any" ? name !== "callback-polling" : name === asked.transport;
  if (!isWanted) client.unregisterTransport(name);
}
client.configure({
  url: asked.url,
  logLevel: process.env.COMETD_LOG ?? "warn",
  requestHeaders: authorization,
  backoffIncrement: 100,
  maxBackoff: 1000,
  maxNetworkDelay: 5000,
});
if (asked.ack) client.registerExtension("ack", new AckExtension());
if (asked.replay) client.registerExtension("replay", replay(asked.from && Number(asked.from)));
if (asked["reload-file"]) {
  window.sessionStorage = stored;
  client.registerExtension("reload", new ReloadExtension());
}

/** Why a message failed: what the server said, or what became of the connection. */
function reason({ error, failure }) {
  return error || failure?.reason || (failure?.websocketCode && `WebSocket closed: ${failure.websocketCode}`) || undefined;
}

/** The transport in use; version 3 has a method for its name. */
const transport = () => client.getTransport().type ?? client.getTransport().getType();

// Each handshake makes a new session without subscriptions, whoever asked for it: hence not with the first one only.
client.addListener("/meta/handshake", (reply) => {
  say("handshake", { successful: reply.successful, error: reason(reply) });
  if (!reply.successful) return;
  client.batch(() => {
    for (const channel of asked.channels) {
      client.subscribe(
        channel,
        (message) => say("event", { message }),
        ({ successful, error }) => say("subscribed", { successful, channel, error }),
      );
    }
  });
});
let isConnected = false;
let isReloading = false;
client.addListener("/meta/connect", (reply) => {
  if (client.isDisconnected() || isReloading) return;
  if (reply.successful && !isConnected) say("connected", { transport: transport() });
  if (!reply.successful && isConnected) say("broken", { error: reason(reply) });
  isConnected = reply.successful;
});

listen(
  (line) => {
    if (line !== "reload") return;
    isReloading = true;
    client.reload();
    process.exit(0);
  },
  () => {
    if (client.isDisconnected()) leave(false);
    else client.disconnect((reply) => leave(reply.successful));
  },
);

client.handshake();
