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
 * the subscriptions of the next session ask for what came after the last number.
 */
class ReplayExtension {
  #sessions = 0;
  #last;

  incoming(message) {
    if (message.channel === "/meta/handshake" && message.successful) this.#sessions += 1;
    else if (typeof message.ext?.replay === "number") this.#last = message.ext.replay;
    return message;
  }

  outgoing(message) {
    if (message.channel === "/meta/subscribe" && this.#sessions > 1 && this.#last !== undefined) {
      message.ext = { ...message.ext, replay: this.#last };
    }
    return message;
  }
}

function print(line) {
  console.log(`${new Date().toISOString()} ${line}`);
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

function printEvent({ data }) {
  switch (data.messageType) {
    case "DeviceStateChangeMessage":
      data.devices.forEach((device) => print(describeDevice(device)));
      break;
    case "CallStateChangeMessage":
      print(describeCall(data));
      break;
    case "ErrorMessage":
      print(`failed: ${data.errorMessage} (${data.devicePath})`);
      break;
    default:
      print(JSON.stringify(data));
  }
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
  if (!reply.successful) print(`cannot listen to ${reply.subscription}: ${reply.error ?? reply.failure?.reason}`);
});

let isConnected = false;
cometd.addListener("/meta/connect", (reply) => {
  if (cometd.isDisconnected() || reply.successful === isConnected) return;
  isConnected = reply.successful;
  print(isConnected ? `connected by ${cometd.getTransport().type}` : "connection lost, trying again");
});

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => {
    if (cometd.isDisconnected()) process.exit(0);
    cometd.disconnect(() => process.exit(0));
  });
}

cometd.handshake();
