// Signs in to the gateway, listens to the events of the user's devices and calls, and shows them.

const CLIENT = "./node_modules/cometd/cometd.js";
const EVENTS_SHOWN = 20;

const element = (id) => document.getElementById(id);
const devices = new Map();
let cometd;

function show(state, text) {
  element("state").dataset.state = state;
  element("state").textContent = text;
}

function showProblem(text) {
  element("problem").textContent = text;
}

function showSignedIn(isSignedIn) {
  element("sign-in").hidden = isSignedIn;
  element("signed-in").hidden = element("log").hidden = !isSignedIn;
}

function describeMonitoring(monitoring) {
  if (!monitoring) return "–";
  const target = monitoring.targetDeviceUri?.split("/").pop();
  const terms = [monitoring.mode, monitoring.scope].filter(Boolean).join(", ");
  return [monitoring.state, target && `of ${target}`, terms && `(${terms})`].filter(Boolean).join(" ");
}

function showDevices() {
  const rows = [...devices.values()].map((device) => {
    const row = document.createElement("tr");
    row.dataset.device = device.id;
    const texts = [
      device.phoneNumber,
      device.deviceState,
      device.userState?.displayName ?? "–",
      device.doNotDisturb ?? "–",
      describeMonitoring(device.supervisorMonitoringState),
    ];
    texts.forEach((text, column) => {
      const cell = document.createElement(column === 0 ? "th" : "td");
      if (column === 0) cell.scope = "row";
      cell.textContent = text;
      row.append(cell);
    });
    return row;
  });
  element("devices").replaceChildren(...rows);
}

function describeDevice({ phoneNumber, deviceState, userState, doNotDisturb, forwardTo, supervisorMonitoringState: monitoring }) {
  const parts = [deviceState, userState?.displayName];
  if (doNotDisturb === "On") parts.push("do not disturb");
  if (forwardTo) parts.push(`forwards to ${forwardTo}`);
  if (monitoring) parts.push(describeMonitoring(monitoring));
  return `Device ${phoneNumber}: ${parts.filter(Boolean).join(", ")}`;
}

function describe(data) {
  switch (data.messageType) {
    case "DeviceStateChangeMessage":
      return data.devices.map(describeDevice).join("; ");
    case "CallStateChangeMessage":
      return `Call ${data.call.id}: ${data.call.state} (${data.notificationType})`;
    case "ErrorMessage":
      return `Failed: ${data.errorMessage}`;
    default:
      return JSON.stringify(data);
  }
}

function logEvent(text) {
  const now = new Date();
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.dateTime = now.toISOString();
  time.textContent = now.toLocaleTimeString();
  item.append(time, text);
  element("events").prepend(item);
  while (element("events").children.length > EVENTS_SHOWN) element("events").lastChild.remove();
}

function onEvent({ data }) {
  if (data.messageType === "DeviceStateChangeMessage") {
    // A message has the whole device: it replaces what was known, and what is absent is over.
    for (const device of data.devices) devices.set(device.id, device);
    showDevices();
  }
  logEvent(describe(data));
}

/**
 * Asks, after a lost session, for the events since the last one that was seen. The first subscription asks for nothing
 * that was before (-1), and its answer says after which number it begins.
 */
function replay() {
  let last = -1;
  return {
    incoming(message) {
      const said = message.ext?.replay;
      if (typeof said === "number") last = Math.max(last, said);
      else if (message.channel === "/meta/subscribe" && last === -1) last = said?.last ?? -1;
      return message;
    },
    outgoing(message) {
      if (message.channel === "/meta/subscribe") message.ext = { ...message.ext, replay: last };
      return message;
    },
  };
}

/** Signs in; the gateway answers with a session cookie. Returns the headers that later requests need besides it. */
async function signIn(gateway, user, password) {
  const bytes = new TextEncoder().encode(`${user}:${password}`);
  const answer = await fetch(`${gateway}/api/v2/me`, {
    headers: { Authorization: `Basic ${btoa(String.fromCharCode(...bytes))}` },
    credentials: "include",
  });
  if (answer.status === 401 || answer.status === 403) throw new Error("The gateway does not know this user with this password.");
  if (!answer.ok) throw new Error(`The gateway answered ${answer.status}.`);
  const name = answer.headers.get("X-CSRF-HEADER");
  return name ? { [name]: answer.headers.get(name) } : {};
}

async function connect(gateway, headers) {
  const { AckExtension, CometD } = await import(CLIENT).catch(() => {
    throw new Error("The CometD client is not there: run «npm ci» in the directory of this page.");
  });
  const client = new CometD();
  client.registerExtension("ack", new AckExtension());
  client.registerExtension("replay", replay());
  client.unregisterTransport("callback-polling");
  client.configure({
    url: `${gateway}/api/v2/notifications`,
    requestHeaders: headers,
    logLevel: "warn",
  });

  // Here, and not once after signing in: a session that the gateway forgot is replaced by one without subscriptions.
  client.addListener("/meta/handshake", (reply) => {
    if (reply.successful) {
      client.batch(() => {
        client.subscribe("/v2/me/devices", onEvent);
        client.subscribe("/v2/me/calls", onEvent);
      });
    } else if (reply.advice?.reconnect === "none") {
      show("broken", "Refused");
      showSignedIn(false);
      showProblem("The session is over. Sign in again.");
    }
  });
  let isConnected = false;
  client.addListener("/meta/connect", (reply) => {
    if (client.isDisconnected()) return;
    if (reply.successful && !isConnected) show("connected", `Connected by ${client.getTransport().type}`);
    if (!reply.successful && isConnected) show("broken", "Connection lost, trying again");
    isConnected = reply.successful;
  });
  client.handshake();
  return client;
}

element("form").addEventListener("submit", async (submission) => {
  submission.preventDefault();
  const gateway = element("gateway").value.replace(/\/$/, "");
  element("submit").disabled = true;
  showProblem("");
  show("connecting", "Connecting");
  try {
    const headers = await signIn(gateway, element("user").value, element("password").value);
    cometd = await connect(gateway, headers);
    element("password").value = "";
    showSignedIn(true);
  } catch (error) {
    show("disconnected", "Not connected");
    const isUnreachable = error instanceof TypeError;
    showProblem(isUnreachable ? `The gateway is not there, or ${location.origin} is not among its allowed origins.` : error.message);
  } finally {
    element("submit").disabled = false;
  }
});

element("leave").addEventListener("click", () => {
  cometd.disconnect(() => location.reload());
});

const asked = new URLSearchParams(location.search).get("gateway");
if (asked) element("gateway").value = asked;
