// The settings form → the body of a chat request.

import { byId } from "./dom.js";

/** Something in the form cannot be used; `field` is where. */
export class FieldError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** The tools in the form. @returns {object[]} Throws FieldError. */
export function readTools() {
  const field = byId("tools");
  if (!field.value.trim()) return [];
  let tools;
  try {
    tools = JSON.parse(field.value);
  } catch (error) {
    throw new FieldError(field, `Not JSON: ${error.message}`);
  }
  if (!Array.isArray(tools)) throw new FieldError(field, "Expected a list of tools.");
  return tools;
}

/** The request for a conversation. @param {object[]} messages - without the system prompt. Throws FieldError. */
export function buildRequest(messages) {
  if (!byId("model").value) throw new FieldError(byId("model"), "No model is chosen: the server has listed none.");
  const system = byId("system").value.trim();
  const tools = readTools();
  const stream = byId("stream").checked;
  const request = {
    model: byId("model").value,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
  };
  if (tools.length) Object.assign(request, { tools, tool_choice: byId("tool-choice").value });
  if (byId("thinking").value) request.reasoning_effort = byId("thinking").value;
  addNumber(request, "temperature", "temperature");
  addNumber(request, "max_tokens", "max-tokens");
  if (stream) Object.assign(request, { stream, stream_options: { include_usage: true } });
  return request;
}

function addNumber(request, name, id) {
  const field = byId(id);
  if (!field.checkValidity()) throw new FieldError(field, `${name}: ${field.validationMessage}`);
  if (field.value !== "") request[name] = Number(field.value);
}

/** Keep the line under the tools up to date. */
export function setUpToolsNote() {
  byId("tools").addEventListener("input", showToolsNote);
}

/** Say what the tools field holds, or what is wrong with it. */
export function showToolsNote() {
  const note = byId("tools-note");
  const field = byId("tools");
  try {
    const names = readTools().map((tool) => tool?.function?.name ?? "(no name)");
    note.textContent = names.length ? `Offers ${names.join(", ")}` : "";
    field.removeAttribute("aria-invalid");
  } catch (error) {
    note.textContent = error.message;
    field.setAttribute("aria-invalid", "true");
  }
}
