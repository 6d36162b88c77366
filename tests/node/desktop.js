// A desktop: the real CometD client. Prints one JSON object per line: what happened to the connection, and each event as received.
//
// Usage: node desktop.js URL USER PASSWORD TRANSPORT CHANNEL…     (TRANSPORT: long-polling, or any)
// It disconnects and ends when its standard input ends.

import { adapt } from "cometd-nodejs-client";

adapt();
const { CometD } = await import("cometd");

const [url, user, password, transport, ...channels] = process.argv.slice(2);
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const client = new CometD();
if (transport !== "any") {
  for (const name of client.getTransportTypes()) {
    if (name !== transport) client.unregisterTransport(name);
  }
}
client.configure({
  url,
  logLevel: process.env.COMETD_LOG ?? "warn",
  requestHeaders: { Authorization: "Basic " + Buffer.from(`${user}:${password}`).toString("base64") },
});

client.addListener("/meta/handshake", (reply) => {
  say({ what: "handshake", successful: reply.successful, error: reply.error });
  if (!reply.successful) return;
  client.batch(() => {
    for (const channel of channels) {
      client.subscribe(
        channel,
        (event) => say({ what: "event", message: event }),
        (reply) => say({ what: "subscribed", successful: reply.successful, channel }),
      );
    }
  });
});
let connected = false;
client.addListener("/meta/connect", (reply) => {
  if (reply.successful && !connected) say({ what: "connected", transport: client.getTransport()?.type });
  connected = reply.successful;
});

process.stdin.resume();
process.stdin.on("end", () => {
  client.disconnect((reply) => {
    say({ what: "disconnected", successful: reply.successful });
    process.exit(0);
  });
});

client.handshake();
