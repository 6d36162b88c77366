// A desktop that logs in as Workspace Web Edition does: reads over HTTP and the event channel of npm `cometd`, in its order, and out again.
// Prints one JSON object per line: each answer, what happened to the connection, and each event.
//
// Usage: node login.js --url URL --user U --password P --device ID --contact ID --by password|cookie --transport long-polling|websocket
// By password each request carries it, and no cookie is kept; by cookie the first one alone does.

import { adapt } from "cometd-nodejs-client";
import { CometD } from "cometd";
import { options, say } from "./common.js";

const asked = options({
  device: { type: "string" },
  contact: { type: "string" },
  by: { type: "string" },
});
const base = asked.url.replace(/\/notifications$/, "");
const keepsCookies = asked.by === "cookie";
let authorization = { Authorization: asked.authorization };

const jar = new Map();
const cookie = () => [...jar.values()].join("; ");
function keep(header) {
  if (!keepsCookies) return;
  const [pair] = header.split(";");
  const name = pair.split("=")[0];
  if (/Max-Age=0/i.test(header)) jar.delete(name);
  else jar.set(name, pair);
}
adapt({
  cookies: {
    storeCookie(_url, header, done) {
      keep(header);
      done();
    },
    retrieveCookies: (_context, _url, done) => done(null, [...jar.values()]),
  },
});
const Socket = window.WebSocket;
window.WebSocket = class extends Socket {
  constructor(url, protocols) {
    super(url, protocols, { headers: { ...authorization, ...(jar.size && { Cookie: cookie() }) } });
  }
};

/** Asks and prints the answer. */
async function ask(path, body) {
  const answer = await fetch(base + path, {
    method: body ? "POST" : "GET",
    headers: { ...authorization, ...(jar.size && { Cookie: cookie() }), ...(body && { "Content-Type": "application/json" }) },
    body: body && JSON.stringify(body),
  });
  answer.headers.getSetCookie().forEach(keep);
  if (keepsCookies) authorization = {};
  say("answer", { path, status: answer.status, body: await answer.json() });
}

const client = new CometD();
for (const name of client.getTransportTypes()) if (name !== asked.transport) client.unregisterTransport(name);

/** Shakes hands and subscribes; done when the last subscription is answered. */
function listen() {
  client.configure({ url: asked.url, logLevel: process.env.COMETD_LOG ?? "error", requestHeaders: authorization, backoffIncrement: 100 });
  const channels = ["/v2/me/devices", "/v2/me/calls", "/v2/me", "/v2/me/channels", "/notifications/services"];
  return new Promise((done) => {
    client.addListener("/meta/handshake", (reply) => {
      say("handshake", { successful: reply.successful, error: reply.error });
      if (!reply.successful) return;
      let missing = channels.length;
      client.batch(() => {
        for (const channel of channels) {
          client.subscribe(
            channel,
            (message) => say("event", { message }),
            ({ successful, error }) => {
              say("subscribed", { channel, successful, error });
              if (--missing === 0) done();
            },
          );
        }
      });
    });
    client.handshake();
  });
}

const operation = (name, more) => ({ operationName: name, ...more });

await ask("/me?subresources=features,devices,channels");
await ask("/me/settings/interaction-workspace");
await ask("/services?fields=*");
await ask("/me/groups?type=BusinessUnit&fields=*");
await ask("/groups?type=dispositions&fields=*");
await ask(`/me/devices/${asked.device}/settings/tserver`);
await ask("/me", operation("StartContactCenterSession", { channels: ["voice", "chat"], place: "desk-7", loginCode: "5005" }));
await ask(`/contacts/${asked.contact}?type=User`);
await ask("/me/channels/voice", operation("NotReady"));
await ask("/diagnostics/version");
await ask("/workbins?fields=*");
await listen();
await ask("/me/?subresources=devices,calls,channels,interactions,chats");
await ask("/me/channels/voice", operation("Ready"));

process.stdin.once("data", async () => {
  await ask("/me", operation("EndContactCenterSession"));
  await ask("/me");
});
process.stdin.once("end", () => {
  if (client.isDisconnected()) process.exit(0);
  client.disconnect(() => setTimeout(() => process.exit(0), 100));
});
