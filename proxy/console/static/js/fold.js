// Chunks → the message they tell of. A whole completion becomes the same.

/** A message of which nothing is known yet. */
export function emptyAnswer() {
  return { content: "", reasoning: "", calls: [], finish: null, usage: null, id: null };
}

/** Take one chunk into an answer. @returns {boolean} whether it brought something to read. */
export function foldChunk(answer, chunk) {
  answer.id ??= chunk.id ?? null;
  if (chunk.usage) answer.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return false;
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  const delta = choice.delta ?? {};
  answer.content += delta.content ?? "";
  answer.reasoning += delta.reasoning_content ?? "";
  for (const part of delta.tool_calls ?? []) foldCall(answer.calls, part);
  return Boolean(delta.content || delta.reasoning_content || delta.tool_calls?.length);
}

function foldCall(calls, part) {
  const call = (calls[part.index] ??= { id: "", name: "", arguments: "" });
  call.id ||= part.id ?? "";
  call.name ||= part.function?.name ?? "";
  call.arguments += part.function?.arguments ?? "";
}

/** The answer that a whole completion holds. */
export function wholeAnswer(completion) {
  const { message, finish_reason: finish } = completion.choices[0];
  return {
    content: message.content ?? "",
    reasoning: message.reasoning_content ?? "",
    calls: (message.tool_calls ?? []).map(({ id, function: { name, arguments: text } }) => ({ id, name, arguments: text })),
    finish,
    usage: completion.usage ?? null,
    id: completion.id,
  };
}

/** The turn that tells the model what it said. */
export function asTurn(answer) {
  const turn = { role: "assistant", content: answer.content || (answer.calls.length ? null : "") };
  if (answer.calls.length) {
    turn.tool_calls = answer.calls.map((call) => ({
      id: call.id,
      type: "function",
      function: { name: call.name, arguments: call.arguments },
    }));
  }
  return turn;
}
