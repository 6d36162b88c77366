// The npm `faye` client. Prints one JSON object per line: what happened to the connection, and each event as received.
//
// Usage: node faye.js --url URL --user U --password P [--transport long-polling|websocket|any] --channels /a,/b [--ack]
// It disconnects and ends when its standard input ends.

import faye from "faye";
import { leave, listen, options, say } from "./common.js";

const asked = options();
const client = new faye.Client(asked.url, { retry: 0.2, timeout: 30 });
client.setHeader("Authorization", asked.authorization);
if (asked.transport === "long-polling") client.disable("websocket");
// Faye cannot do without long-polling: it carries the handshake, and the first connect too where the websocket is not open yet.
// With `websocket` it counts as connected once it is by one; else that and `any` are the same.

// Faye has no ack extension of its own; this is CometD's, as its manual describes it.
const ack = { isOn: false, batch: 0 };
if (asked.ack) {
  client.addExtension({
    outgoing(message, pass) {
      if (message.channel === "/meta/handshake") {
        Object.assign(ack, { isOn: false, batch: 0 });
        message.ext = { ...message.ext, ack: true };
      }
      if (message.channel === "/meta/connect" && ack.isOn) message.ext = { ...message.ext, ack: ack.batch };
      pass(message);
    },
    incoming(message, pass) {
      const said = message.ext?.ack;
      if (message.channel === "/meta/handshake") ack.isOn = said === true || said?.enabled === true;
      if (message.channel === "/meta/connect" && typeof said === "number") ack.batch = said;
      pass(message);
    },
  });
}

let isConnected = false;
let isLeaving = false;
let transport;
function connected() {
  if (asked.transport === "websocket" && transport !== "websocket") return;
  if (!isConnected && !isLeaving) say("connected", { transport });
  isConnected = true;
}
function broken(error) {
  if (isConnected && !isLeaving) say("broken", { error });
  isConnected = false;
}
let delivered;
client.addExtension({
  outgoing(message, pass) {
    if (message.channel === "/meta/connect") transport = message.connectionType;
    pass(message);
  },
  incoming(message, pass) {
    const { channel, successful, error, subscription } = message;
    if (channel === "/meta/handshake") say("handshake", { successful, error });
    if (channel === "/meta/subscribe") say("subscribed", { successful, channel: subscription, error });
    if (channel === "/meta/connect" && !successful) broken(error);
    // It does not ask for a quick answer after a loss, so that an event may come long before the answer of the held poll.
    if ((channel === "/meta/connect" && successful) || message.data !== undefined) connected();
    // The subscription below is given the data alone.
    delivered = message;
    pass(message);
  },
});
client.on("transport:down", () => broken());
for (const channel of asked.channels) {
  client.subscribe(channel, () => say("event", { message: delivered })).errback(() => {});
}
client.connect();

listen(
  () => {},
  () => {
    isLeaving = true;
    const done = client.disconnect();
    if (!done) return leave(false);
    const late = setTimeout(() => leave(false), 5000);
    done
      .then(
        () => true,
        () => false,
      )
      .then((successful) => {
        clearTimeout(late);
        leave(successful);
      });
  },
);
