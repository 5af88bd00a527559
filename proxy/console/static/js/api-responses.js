// OpenAI's Responses API. Each request has the whole conversation, and nothing is stored.

/** @type {import("./apis.js").Api} */
export const responses = {
  path: "v1/responses",

  build({ model, system, tools, toolChoice, effort, temperature, maxTokens, stream }, turns) {
    const request = { model, input: turns.flatMap(itemsOf), store: false };
    if (system) request.instructions = system;
    if (tools.length) Object.assign(request, { tools: tools.map(toolOf), tool_choice: toolChoice });
    if (effort) request.reasoning = { effort, summary: "auto" };
    if (temperature != null) request.temperature = temperature;
    if (maxTokens != null) request.max_output_tokens = maxTokens;
    if (stream) request.stream = stream;
    return request;
  },

  fold(answer, event) {
    const calls = (answer.callsByIndex ??= new Map());
    switch (event.type) {
      case "response.output_text.delta":
        answer.content += event.delta;
        return true;
      case "response.reasoning_summary_text.delta":
        answer.reasoning += event.delta;
        return true;
      case "response.output_item.added":
        if (event.item.type !== "function_call") return false;
        calls.set(event.output_index, { id: event.item.call_id, name: event.item.name, arguments: "" });
        answer.calls = [...calls.values()];
        return true;
      case "response.function_call_arguments.delta":
        calls.get(event.output_index).arguments += event.delta;
        return true;
      case "response.completed":
      case "response.incomplete":
        Object.assign(answer, endOf(event.response));
    }
    return false;
  },

  failure: (event) => (event.type === "response.failed" ? (event.response.error ?? { message: "The response failed." }) : null),

  whole(response) {
    const parts = (type, name) => response.output.filter((item) => item.type === type).flatMap((item) => item[name]);
    const text = (list) => list.map((part) => part.text ?? part.refusal ?? "").join("");
    return {
      content: text(parts("message", "content")),
      reasoning: text(parts("reasoning", "summary")),
      calls: response.output
        .filter((item) => item.type === "function_call")
        .map((item) => ({ id: item.call_id, name: item.name, arguments: item.arguments })),
      ...endOf(response),
    };
  },

  code: {
    python: { package: "openai", type: "OpenAI" },
    node: { package: "openai", type: "OpenAI" },
    base: "v1",
    method: "responses.create",
    stream: {
      python: [
        "for event in answer:",
        '    if event.type.endswith((".output_text.delta", ".arguments.delta")):',
        '        print(event.delta, end="", flush=True)',
        "print()",
      ],
      node: [
        "for await (const event of answer) {",
        String.raw`  if (/\.(output_text|function_call_arguments)\.delta$/.test(event.type)) process.stdout.write(event.delta);`,
        "}",
        "console.log();",
      ],
    },
    whole: { python: ["print(answer.output)"], node: ["console.log(answer.output);"] },
  },
};

function itemsOf(turn) {
  if (turn.role === "user") return [{ role: "user", content: turn.text }];
  if (turn.role === "results") {
    return turn.results.map(({ id, content }) => ({ type: "function_call_output", call_id: id, output: content }));
  }
  const { content, calls } = turn.answer;
  const called = calls.map((call) => ({ type: "function_call", call_id: call.id, name: call.name, arguments: call.arguments }));
  return [...(content ? [{ role: "assistant", content }] : []), ...called];
}

/** A tool of the form, which has the shape of chat completions; one of any other shape stays as it is. */
const toolOf = (tool) => (tool?.function ? { type: "function", ...tool.function } : tool);

const endOf = ({ status, incomplete_details: details, usage }) => ({
  finish: details?.reason ?? status,
  usage: usage ? { input: usage.input_tokens, output: usage.output_tokens } : null,
});
