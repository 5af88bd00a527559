// A request as code that sends it. The key is not written out: it is taken from the environment.

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A command for a POSIX shell. */
export function asCurl(request, baseUrl) {
  return [
    `curl${request.stream ? " -N" : ""} ${shell(`${baseUrl}/chat/completions`)} \\`,
    `  -H "Authorization: Bearer \${PROXY_API_KEY:-any-key}" \\`,
    `  -H 'Content-Type: application/json' \\`,
    `  -d ${shell(JSON.stringify(request, null, 2))}`,
    "",
  ].join("\n");
}

/** Python with the `openai` library. */
export function asPython(request, baseUrl) {
  const fields = Object.entries(request).map(([name, value]) => `    ${name}=${pythonValue(value, 1)},`);
  const show = request.stream
    ? [
        "for chunk in answer:",
        "    for choice in chunk.choices:",
        '        print(choice.delta.content or "", end="", flush=True)',
        "        for call in choice.delta.tool_calls or ():",
        '            print(call.function.name or "", call.function.arguments or "", end="")',
        "print()",
      ]
    : ["print(answer.choices[0].message)"];
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    "client = OpenAI(",
    `    base_url=${pythonValue(baseUrl)},`,
    '    api_key=os.environ.get("PROXY_API_KEY", "any-key"),',
    ")",
    "answer = client.chat.completions.create(",
    ...fields,
    ")",
    ...show,
    "",
  ].join("\n");
}

/** JavaScript for Node with the `openai` library. */
export function asNode(request, baseUrl) {
  const show = request.stream
    ? [
        "for await (const chunk of answer) {",
        "  for (const { delta } of chunk.choices) {",
        '    process.stdout.write(delta.content ?? "");',
        "    for (const call of delta.tool_calls ?? []) {",
        '      process.stdout.write((call.function?.name ?? "") + (call.function?.arguments ?? ""));',
        "    }",
        "  }",
        "}",
        "console.log();",
      ]
    : ["console.log(answer.choices[0].message);"];
  return [
    'import OpenAI from "openai";',
    "",
    "const client = new OpenAI({",
    `  baseURL: ${JSON.stringify(baseUrl)},`,
    '  apiKey: process.env.PROXY_API_KEY ?? "any-key",',
    "});",
    `const answer = await client.chat.completions.create(${JSON.stringify(request, null, 2)});`,
    ...show,
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
