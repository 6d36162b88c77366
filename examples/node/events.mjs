// Prints what happens to the devices and calls of one user, as long as it runs.
//
//   npm ci
//   node events.mjs http://127.0.0.1:8080 supervisor PASSWORD
//
// The gateway, the user and the password may also come from UNDERTONE_URL, UNDERTONE_USER and UNDERTONE_PASSWORD.

import { adapt } from "cometd-nodejs-client";

const { UNDERTONE_URL, UNDERTONE_USER, UNDERTONE_PASSWORD } = process.env;
const [gateway = UNDERTONE_URL, user = UNDERTONE_USER, password = UNDERTONE_PASSWORD] = process.argv.slice(2);
if (!gateway || !user || !password) {
  console.error("usage: node events.mjs URL USER PASSWORD");
  process.exit(2);
}
const headers = { Authorization: "Basic " + Buffer.from(`${user}:${password}`).toString("base64") };

// The client is written for browsers: this gives it the two things of a browser that it uses.
adapt();
const Socket = window.WebSocket;
window.WebSocket = class extends Socket {
  constructor(url, protocols) {
    super(url, protocols, { headers });
  }
};
const { AckExtension, CometD } = await import("cometd");

/**
 * Each event has a number. When the session was lost (the gateway was restarted, or we were away for too long),
 * the subscriptions of the next session ask for what came after the last number. The first ones ask for nothing
 * that was before (-1), and their answer says after which number they begin.
 */
class ReplayExtension {
  #last = -1;

  incoming(message) {
    const said = message.ext?.replay;
    if (typeof said === "number") this.#last = Math.max(this.#last, said);
    else if (message.channel === "/meta/subscribe" && this.#last === -1) this.#last = said?.last ?? -1;
    return message;
  }

  outgoing(message) {
    if (message.channel === "/meta/subscribe") message.ext = { ...message.ext, replay: this.#last };
    return message;
  }
}

function describeDevice(device) {
  const { phoneNumber, deviceState, userState, doNotDisturb, forwardTo, supervisorMonitoringState: monitoring } = device;
  const parts = [deviceState, userState?.displayName];
  if (doNotDisturb === "On") parts.push("do not disturb");
  if (forwardTo) parts.push(`forwards to ${forwardTo}`);
  if (monitoring) parts.push(`${monitoring.state} ${monitoring.targetDeviceUri ?? ""} (${monitoring.mode}, ${monitoring.scope})`);
  return `device ${phoneNumber}: ${parts.filter(Boolean).join(", ")}`;
}

function describeCall({ notificationType, call }) {
  const others = (call.participants ?? []).map((participant) => participant.phoneNumber).join(" and ");
  return `call ${call.id} ${notificationType}: ${call.state} with ${others || "nobody"}`;
}

function describe(data) {
  switch (data.messageType) {
    case "DeviceStateChangeMessage":
      return data.devices.map(describeDevice).join("; ");
    case "CallStateChangeMessage":
      return describeCall(data);
    case "ErrorMessage":
      return `failed: ${data.errorMessage} (${data.devicePath})`;
    default:
      return JSON.stringify(data);
  }
}

function printEvent({ data }) {
  console.log(`event ${new Date().toISOString()} ${describe(data)}`);
}

const cometd = new CometD();
cometd.unregisterTransport("callback-polling");
cometd.registerExtension("ack", new AckExtension());
cometd.registerExtension("replay", new ReplayExtension());
cometd.configure({
  url: `${gateway.replace(/\/$/, "")}/api/v2/notifications`,
  requestHeaders: headers,
  logLevel: "warn",
});

// A new session has no subscriptions. So they are made here, where the client comes by after each handshake, also its own later ones.
cometd.addListener("/meta/handshake", (reply) => {
  if (reply.successful) {
    cometd.batch(() => {
      cometd.subscribe("/v2/me/devices", printEvent);
      cometd.subscribe("/v2/me/calls", printEvent);
    });
  } else if (reply.advice?.reconnect === "none") {
    console.error(`The gateway lets nobody in as ${user}: ${reply.error}`);
    process.exit(1);
  }
});
cometd.addListener("/meta/subscribe", (reply) => {
  if (!reply.successful) console.error(`cannot listen to ${reply.subscription}: ${reply.error ?? reply.failure?.reason}`);
});

let isConnected = false;
cometd.addListener("/meta/connect", (reply) => {
  if (cometd.isDisconnected() || reply.successful === isConnected) return;
  isConnected = reply.successful;
  console.log(isConnected ? `connected by ${cometd.getTransport().type}` : "connection lost, trying again");
});

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => {
    if (cometd.isDisconnected()) process.exit(0);
    cometd.disconnect(() => process.exit(0));
  });
}

cometd.handshake();
