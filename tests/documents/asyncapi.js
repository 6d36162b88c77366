// Usage: node asyncapi.js FILE. Prints what the parser of AsyncAPI finds wrong with a document, and ends with 1 when that is an error or a warning.

import { readFile } from "node:fs/promises";
import { Parser } from "@asyncapi/parser";

/** Of the parser's diagnostics: 0 is an error, 1 a warning. The rest is advice. */
const WRONG = 1;
const { document, diagnostics } = await new Parser().parse(await readFile(process.argv[2], "utf8"));
const wrong = diagnostics.filter((one) => one.severity <= WRONG);
for (const { code, message, path } of wrong) console.log(`${code} at ${path.join("/")}: ${message}`);
if (!document || wrong.length > 0) process.exit(1);
