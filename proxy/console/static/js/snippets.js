// A request as code that sends it. The key is not written out: it is taken from the environment.

import { baseUrl } from "./api.js";

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A command for a POSIX shell. @param {import("./apis.js").Api} api */
export function asCurl(request, api) {
  return [
    `curl${request.stream ? " -N" : ""} ${shell(baseUrl(api.path))} \\`,
    `  -H "Authorization: Bearer \${PROXY_API_KEY:-any-key}" \\`,
    `  -H 'Content-Type: application/json' \\`,
    `  -d ${shell(JSON.stringify(request, null, 2))}`,
    "",
  ].join("\n");
}

/** Python with the API's library; fields that it has no argument for are its `extra_body`. */
export function asPython(request, { code }) {
  const extra = (code.python.extra ?? []).filter((name) => name in request);
  const given = Object.entries(request).filter(([name]) => !extra.includes(name));
  if (extra.length) given.push(["extra_body", Object.fromEntries(extra.map((name) => [name, request[name]]))]);
  const { package: library, type } = code.python;
  return [
    "import os",
    "",
    `from ${library} import ${type}`,
    "",
    `client = ${type}(`,
    `    base_url=${pythonValue(baseUrl(code.base))},`,
    '    api_key=os.environ.get("PROXY_API_KEY", "any-key"),',
    ")",
    `answer = client.${code.method}(`,
    ...given.map(([name, value]) => `    ${name}=${pythonValue(value, 1)},`),
    ")",
    ...(request.stream ? code.stream : code.whole).python,
    "",
  ].join("\n");
}

/** JavaScript for Node with the API's library. */
export function asNode(request, { code }) {
  const { package: library, type } = code.node;
  return [
    `import ${type} from "${library}";`,
    "",
    `const client = new ${type}({`,
    `  baseURL: ${JSON.stringify(baseUrl(code.base))},`,
    '  apiKey: process.env.PROXY_API_KEY ?? "any-key",',
    "});",
    `const answer = await client.${code.method}(${JSON.stringify(request, null, 2)});`,
    ...(request.stream ? code.stream : code.whole).node,
    "",
  ].join("\n");
}

/** A JSON value as Python writes it. */
function pythonValue(value, depth = 0) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = "    ".repeat(depth + 1);
  const outer = "    ".repeat(depth);
  const items = Array.isArray(value)
    ? value.map((item) => pythonValue(item, depth + 1))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${pythonValue(item, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return items.length ? `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${outer}${close}` : open + close;
}
