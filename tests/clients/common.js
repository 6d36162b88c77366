// What the client scripts share: the command line, and the two ends of the line protocol.

import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

const WORDS = {
  url: { type: "string" },
  user: { type: "string" },
  password: { type: "string" },
  transport: { type: "string", default: "any" },
  channels: { type: "string", default: "" },
  ack: { type: "boolean", default: false },
};

/** The options of the command line: those that every client has, and the `extra` ones of this client. */
export function options(extra = {}) {
  const { values } = parseArgs({ options: { ...WORDS, ...extra } });
  return {
    ...values,
    channels: values.channels.split(",").filter(Boolean),
    authorization: "Basic " + Buffer.from(`${values.user}:${values.password}`).toString("base64"),
  };
}

/** Prints one line; what is undefined is left out. */
export function say(what, rest = {}) {
  process.stdout.write(JSON.stringify({ what, ...rest }) + "\n");
}

/** Calls `line` for each line of the standard input, and `end` when it ends. */
export function listen(line, end) {
  createInterface({ input: process.stdin }).on("line", line).on("close", end);
}

/** Ends the process when what was written last (a close frame, say) has had time to leave. */
export function leave(successful) {
  say("disconnected", { successful });
  setTimeout(() => process.exit(0), 100);
}
