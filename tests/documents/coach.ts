// The Coach request by the client that openapi-typescript and openapi-fetch make of the document. Usage: node coach.js URL USER PASSWORD DEVICE TARGET

import createClient from "openapi-fetch";
import type { paths } from "./api.js";

const [url = "", user, password, id = "", target = ""] = process.argv.slice(2);
const client = createClient<paths>({
  baseUrl: url,
  headers: { Authorization: `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}` },
});

function fail(what: unknown): never {
  console.log(JSON.stringify(what));
  process.exit(1);
}

const device = { params: { path: { id } } };
const accepted = await client.POST("/api/v2/me/devices/{id}", {
  ...device,
  body: { operationName: "Coach", targetDeviceUri: `${url}/api/v2/devices/${target}`, supervisorMonitoringScope: "Agent" },
});
if (accepted.data?.statusCode !== 0) fail(accepted.error);

const { data, error } = await client.GET("/api/v2/me/devices/{id}", device);
const monitors = data?.device.supervisorMonitoringState;
if (monitors?.state !== "Coach" || monitors.scope !== "Agent" || monitors.mode !== "AllCalls") fail(error ?? data);

const again = await client.POST("/api/v2/me/devices/{id}", { ...device, body: { operationName: "BargeIn" } });
if (again.response.status !== 400 || again.error?.statusCode !== 1) fail(again);

// What the types know: these do not compile.
// @ts-expect-error There is no such operation.
void (() => client.POST("/api/v2/me/devices/{id}", { ...device, body: { operationName: "Dance" } }));
// @ts-expect-error It is an operation of a call.
void (() => client.POST("/api/v2/me/devices/{id}", { ...device, body: { operationName: "Hangup" } }));
// @ts-expect-error A required parameter is missing.
void (() => client.POST("/api/v2/me/devices/{id}", { ...device, body: { operationName: "ForwardCallsOn" } }));
// @ts-expect-error There is no such scope.
void (() => client.POST("/api/v2/me/devices/{id}", { ...device, body: { operationName: "Coach", supervisorMonitoringScope: "agent" } }));

console.log("coached");
