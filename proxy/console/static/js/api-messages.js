// Anthropic's Messages API.

const DEFAULT_MAX_TOKENS = 4096; // the API requires a number
const CHOICES = { auto: "auto", required: "any", none: "none" };

/** @type {import("./apis.js").Api} */
export const messages = {
  path: "v1/messages",

  build({ model, system, tools, toolChoice, effort, temperature, maxTokens, stream }, turns) {
    const request = { model, max_tokens: maxTokens ?? DEFAULT_MAX_TOKENS };
    if (system) request.system = system;
    request.messages = turns.map(messageOf);
    if (tools.length) Object.assign(request, { tools: tools.map(toolOf), tool_choice: { type: CHOICES[toolChoice] } });
    if (effort) {
      // It has no effort below low.
      Object.assign(request, { thinking: { type: "adaptive" }, output_config: { effort: effort === "minimal" ? "low" : effort } });
    }
    if (temperature != null) request.temperature = temperature;
    if (stream) request.stream = stream;
    return request;
  },

  fold(answer, event) {
    if (event.type === "content_block_start" && event.content_block.type === "tool_use") {
      const { id, name } = event.content_block;
      answer.calls.push({ id, name, arguments: "" });
      return true;
    }
    if (event.type === "content_block_delta") return foldDelta(answer, event.delta);
    if (event.type === "message_delta") {
      answer.finish = event.delta.stop_reason;
      answer.usage = usageOf(event.usage);
    }
    return false;
  },

  failure: (event) => (event.type === "error" ? event.error : null),

  whole({ content, stop_reason: finish, usage }) {
    const texts = (type, name) => content.filter((block) => block.type === type).map((block) => block[name]).join("");
    return {
      content: texts("text", "text"),
      reasoning: texts("thinking", "thinking"),
      calls: content
        .filter((block) => block.type === "tool_use")
        .map(({ id, name, input }) => ({ id, name, arguments: JSON.stringify(input) })),
      finish,
      usage: usageOf(usage),
    };
  },

  code: {
    python: { package: "anthropic", type: "Anthropic", extra: ["temperature"] },
    node: { package: "@anthropic-ai/sdk", type: "Anthropic" },
    base: "",
    method: "messages.create",
    stream: {
      python: [
        "for event in answer:",
        '    if event.type == "content_block_delta":',
        "        delta = event.delta",
        '        text = getattr(delta, "text", None) or getattr(delta, "partial_json", None)',
        '        print(text or "", end="", flush=True)',
        "print()",
      ],
      node: [
        "for await (const event of answer) {",
        '  if (event.type === "content_block_delta") process.stdout.write(event.delta.text ?? event.delta.partial_json ?? "");',
        "}",
        "console.log();",
      ],
    },
    whole: { python: ["print(answer.content)"], node: ["console.log(answer.content);"] },
  },
};

function messageOf(turn) {
  if (turn.role === "user") return { role: "user", content: turn.text };
  if (turn.role === "results") {
    return { role: "user", content: turn.results.map(({ id, content }) => ({ type: "tool_result", tool_use_id: id, content })) };
  }
  const { content, calls } = turn.answer;
  const uses = calls.map((call) => ({ type: "tool_use", id: call.id, name: call.name, input: inputOf(call.arguments) }));
  return { role: "assistant", content: [...(content ? [{ type: "text", text: content }] : []), ...uses] };
}

function inputOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {}; // a call that was cut short
  }
}

/** A tool of the form, which has OpenAI's shape; one of any other shape stays as it is. */
function toolOf(tool) {
  if (!tool?.function) return tool;
  const { name, description, parameters } = tool.function;
  return { name, description, input_schema: parameters ?? { type: "object", properties: {} } };
}

function foldDelta(answer, delta) {
  answer.content += delta.text ?? "";
  answer.reasoning += delta.thinking ?? "";
  if (delta.type === "input_json_delta") answer.calls.at(-1).arguments += delta.partial_json;
  return Boolean(delta.text || delta.thinking || delta.partial_json);
}

const usageOf = ({ input_tokens: input, output_tokens: output }) => ({ input, output });
