// Draws the OpenAPI and the AsyncAPI document. What they say is put in as text, never as HTML.

const contents = document.getElementById("contents");
const main = document.getElementById("document");

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.flat().filter((child) => child !== undefined));
  return made;
}

/** Paragraphs, with `code` between backticks. */
function prose(text = "") {
  return text.split("\n\n").map((paragraph) => element("p", {}, inline(paragraph)));
}

function inline(text = "") {
  return text.split("`").map((part, at) => (at % 2 ? element("code", { textContent: part }) : part));
}

function table(heads, rows) {
  const line = (name, cells) => element("tr", {}, cells.map((cell) => element(name, {}, cell ?? "")));
  return element("table", { className: `of-${heads.length}` }, element("thead", {}, line("th", heads)), element("tbody", {}, rows.map((cells) => line("td", cells))));
}

function json(value) {
  return element("pre", {}, element("code", { textContent: JSON.stringify(value, null, 2) }));
}

const nameOf = (reference) => reference.split("/").pop();

function link(name) {
  return element("a", { href: `#schema-${name}`, textContent: name });
}

/** What a value may be, in one line. */
function kind(schema) {
  if (schema.$ref) return [link(nameOf(schema.$ref))];
  if (schema.const !== undefined) return [element("code", { textContent: JSON.stringify(schema.const) })];
  if (schema.enum) return [element("code", { textContent: schema.enum.map((word) => JSON.stringify(word)).join(" | ") })];
  const several = schema.oneOf ?? schema.anyOf;
  if (several) return several.flatMap((one, at) => (at ? [" or ", ...kind(one)] : kind(one)));
  if (schema.type === "array") return ["array of ", ...kind(schema.items ?? {})];
  if (schema.additionalProperties?.type) return ["object of ", ...kind(schema.additionalProperties)];
  return [[schema.type ?? "any"].flat().join(" or ")];
}

/** Bounds, default and meaning of a value. */
function meaning(schema, root) {
  const target = schema.$ref ? root.components.schemas[nameOf(schema.$ref)] : schema;
  const bounds = [
    ["default", schema.default],
    ["pattern", schema.pattern],
    ["length", schema.maxLength && `${schema.minLength ?? 0} to ${schema.maxLength}`],
    ["at least", schema.minimum ?? schema.minItems],
    ["at most", schema.maximum ?? schema.maxItems],
  ].filter(([, value]) => value !== undefined && value !== 0);
  const said = bounds.flatMap(([name, value]) => [element("span", { className: "quiet", textContent: ` ${name} ` }), element("code", { textContent: String(value) })]);
  return [...inline(schema.description ?? target?.description?.split("\n\n")[0]), ...said];
}

function members(schema, root) {
  const properties = Object.entries(schema.properties ?? {});
  if (properties.length === 0) return undefined;
  const presence = (name) => {
    if (schema.required?.includes(name)) return "required";
    const either = Object.keys(schema.not?.properties ?? {});
    return either.includes(name) ? `required unless ${either.filter((other) => other !== name).join(" or ")}` : "";
  };
  return table(
    ["name", "type", "", ""],
    properties.map(([name, value]) => [element("code", { textContent: name }), kind(value), element("span", { className: "quiet", textContent: presence(name) }), meaning(value, root)]),
  );
}

function refusals(rows) {
  const heading = element("summary", { textContent: "refused" });
  return element("details", {}, heading, table(["HTTP", "statusCode", "when"], rows.map((row) => [String(row.status), String(row.statusCode), row.when])));
}

const named = (schema) => schema.properties.operationName.const;

/** One operation of an endpoint by its name, or a whole body. */
function body(endpoint, name, schema, root) {
  const example = schema.examples?.[0];
  return element(
    "article",
    { id: `operation-${endpoint}-${name}`, className: "operation" },
    element("h4", { textContent: name }),
    prose(schema.description?.split("\n\n")[0]),
    members(schema, root),
    example && json(example),
    schema["x-refusals"] && refusals(schema["x-refusals"]),
  );
}

function response([status, answer], root) {
  const { description, content } = answer.$ref ? root.components.responses[nameOf(answer.$ref)] : answer;
  const schema = content?.["application/json"]?.schema;
  return [status, inline(description), schema ? kind(schema) : ""];
}

function endpoint(path, method, operation, root) {
  const id = operation.operationId;
  const asked = operation.requestBody?.content["application/json"];
  const whole = asked?.schema.$ref && root.components.schemas[nameOf(asked.schema.$ref)];
  const operations = (whole?.oneOf ?? []).map((one) => root.components.schemas[nameOf(one.$ref)]);
  // What the product is there for comes first.
  operations.sort((one, other) => (named(other) === "Coach") - (named(one) === "Coach"));
  const answers = table(["HTTP", "", "body"], Object.entries(operation.responses).map((one) => response(one, root)));
  const section = element(
    "section",
    { id, className: "endpoint" },
    element("h3", {}, element("span", { className: "method", textContent: method.toUpperCase() }), path),
    prose(operation.summary),
    prose(operation.description),
    operation.parameters && table(["name", "in", "type", ""], operation.parameters.map((one) => [element("code", { textContent: one.name }), one.in, kind(one.schema), inline(one.description)])),
    operations.map((schema) => body(id, named(schema), schema, root)),
    whole && operations.length === 0 ? body(id, "body", whole, root) : undefined,
    element("details", {}, element("summary", { textContent: "answers" }), answers),
  );
  const below = operations.map((schema) => element("li", {}, element("a", { href: `#operation-${id}-${named(schema)}`, textContent: named(schema) })));
  const entry = element("li", {}, element("a", { href: `#${id}`, textContent: `${method.toUpperCase()} ${path.replace("/api/v2", "")}` }), below.length ? element("ul", {}, below) : undefined);
  return { section, entry };
}

/** The order of the endpoints by their first words, behind `/api/v2`: a session, what is done at a device and with a call, and then what is only read. What is not named here comes last, by its path. */
const ORDER = ["/me", "/me/channels", "/logout", "/me/devices", "/me/calls", "/devices", "/contacts", "/groups", "/users"];

function placeOf(path) {
  const words = path.replace("/api/v2", "");
  const of = words.split("/").slice(0, words.startsWith("/me/") ? 3 : 2).join("/");
  return ORDER.includes(of) ? ORDER.indexOf(of) : ORDER.length;
}

/** In which order two endpoints are shown: of one place, what is posted first. */
function compare([one, oneMethod], [other, otherMethod]) {
  const reads = (method) => (method === "get" ? 1 : 0);
  return placeOf(one) - placeOf(other) || reads(oneMethod) - reads(otherMethod) || one.split("/").length - other.split("/").length || one.localeCompare(other);
}

/** A part of the page with its part of the contents. */
function part(title, drawn) {
  main.append(element("h2", { textContent: title }), ...drawn.map(({ section }) => section));
  contents.append(element("p", { textContent: title }), element("ul", {}, drawn.map(({ entry }) => entry)));
}

function schemas(root, shown) {
  const drawn = Object.entries(root.components.schemas).filter(([name]) => !shown.has(name));
  return drawn.map(([name, schema]) => {
    shown.add(name);
    const one = schema.oneOf && element("p", {}, "one of ", kind(schema));
    return {
      section: element("section", { id: `schema-${name}` }, element("h3", { textContent: name }), prose(schema.description?.split("\n\n")[0]), members(schema, root) ?? one ?? element("p", {}, kind(schema))),
      entry: element("li", {}, link(name)),
    };
  });
}

function events(root) {
  return Object.entries(root.channels).map(([name, channel]) => {
    const told = Object.keys(channel.messages).map((message) => {
      const { payload, examples } = root.components.messages[message];
      return element("article", { className: "message" }, element("h4", {}, link(nameOf(payload.$ref))), element("details", {}, element("summary", { textContent: "example" }), json(examples?.[0].payload)));
    });
    return {
      section: element("section", { id: `channel-${name}` }, element("h3", { textContent: channel.address }), prose(channel.description), told),
      entry: element("li", {}, element("a", { href: `#channel-${name}`, textContent: channel.address })),
    };
  });
}

async function read(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} is answered ${answer.status}`);
  return answer.json();
}

try {
  const [asked, told] = await Promise.all([read("/api/v2/openapi.json"), read("/api/v2/asyncapi.json")]);
  main.prepend(element("h1", { textContent: `${asked.info.title} ${asked.info.version}` }), ...prose(asked.info.description));
  const requests = Object.entries(asked.paths).flatMap(([path, item]) => Object.entries(item).map(([method, operation]) => [path, method, operation]));
  const endpoints = requests.sort(compare).map(([path, method, operation]) => ({ tag: operation.tags[0], ...endpoint(path, method, operation, asked) }));
  for (const tag of new Set(endpoints.map((one) => one.tag))) {
    part(
      tag,
      endpoints.filter((one) => one.tag === tag),
    );
  }
  const [first] = endpoints;
  const opened = [first.section.querySelector(".operation details"), first.section.querySelector(":scope > details")];
  for (const details of opened.filter(Boolean)) details.open = true;
  part("events", events(told));
  main.append(...prose(told.info.description));
  const shown = new Set();
  part("schemas", [...schemas(asked, shown), ...schemas(told, shown)]);
  document.documentElement.dataset.state = "drawn";
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
} catch (error) {
  main.append(element("p", { id: "problem", textContent: `The documents cannot be shown: ${error.message}` }));
  document.documentElement.dataset.state = "failed";
}
