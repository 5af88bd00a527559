// OpenAI's chat completions.

/** @type {import("./apis.js").Api} */
export const chat = {
  path: "v1/chat/completions",

  build({ model, system, tools, toolChoice, effort, temperature, maxTokens, stream }, turns) {
    const request = { model, messages: [...(system ? [{ role: "system", content: system }] : []), ...turns.flatMap(messagesOf)] };
    if (tools.length) Object.assign(request, { tools, tool_choice: toolChoice });
    if (effort) request.reasoning_effort = effort;
    if (temperature != null) request.temperature = temperature;
    if (maxTokens != null) request.max_tokens = maxTokens;
    if (stream) Object.assign(request, { stream, stream_options: { include_usage: true } });
    return request;
  },

  fold(answer, chunk) {
    if (chunk.usage) answer.usage = usageOf(chunk.usage);
    const choice = chunk.choices?.[0];
    if (!choice) return false;
    if (choice.finish_reason) answer.finish = choice.finish_reason;
    const delta = choice.delta ?? {};
    answer.content += delta.content ?? "";
    answer.reasoning += delta.reasoning_content ?? "";
    for (const part of delta.tool_calls ?? []) foldCall(answer.calls, part);
    return Boolean(delta.content || delta.reasoning_content || delta.tool_calls?.length);
  },

  failure: (chunk) => chunk.error ?? null,

  whole({ choices: [{ message, finish_reason: finish }], usage }) {
    return {
      content: message.content ?? "",
      reasoning: message.reasoning_content ?? "",
      calls: (message.tool_calls ?? []).map(({ id, function: { name, arguments: text } }) => ({ id, name, arguments: text })),
      finish,
      usage: usage ? usageOf(usage) : null,
    };
  },

  code: {
    python: { package: "openai", type: "OpenAI" },
    node: { package: "openai", type: "OpenAI" },
    base: "v1",
    method: "chat.completions.create",
    stream: {
      python: [
        "for chunk in answer:",
        "    for choice in chunk.choices:",
        '        print(choice.delta.content or "", end="", flush=True)',
        "        for call in choice.delta.tool_calls or ():",
        '            print(call.function.name or "", call.function.arguments or "", end="")',
        "print()",
      ],
      node: [
        "for await (const chunk of answer) {",
        "  for (const { delta } of chunk.choices) {",
        '    process.stdout.write(delta.content ?? "");',
        "    for (const call of delta.tool_calls ?? []) {",
        '      process.stdout.write((call.function?.name ?? "") + (call.function?.arguments ?? ""));',
        "    }",
        "  }",
        "}",
        "console.log();",
      ],
    },
    whole: { python: ["print(answer.choices[0].message)"], node: ["console.log(answer.choices[0].message);"] },
  },
};

function messagesOf(turn) {
  if (turn.role === "user") return [{ role: "user", content: turn.text }];
  if (turn.role === "results") return turn.results.map(({ id, content }) => ({ role: "tool", tool_call_id: id, content }));
  const { content, calls } = turn.answer;
  const message = { role: "assistant", content: content || (calls.length ? null : "") };
  if (calls.length) {
    message.tool_calls = calls.map((call) => ({
      id: call.id,
      type: "function",
      function: { name: call.name, arguments: call.arguments },
    }));
  }
  return [message];
}

function foldCall(calls, part) {
  const call = (calls[part.index] ??= { id: "", name: "", arguments: "" });
  call.id ||= part.id ?? "";
  call.name ||= part.function?.name ?? "";
  call.arguments += part.function?.arguments ?? "";
}

const usageOf = ({ prompt_tokens: input, completion_tokens: output }) => ({ input, output });
