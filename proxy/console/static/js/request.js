// The settings form → the body of a request.

import { APIS } from "./apis.js";
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

/** The API that is chosen. @returns {import("./apis.js").Api} */
export const chosenApi = () => APIS[byId("api").value];

/** The request for a conversation. @param {object[]} turns - see apis.js. Throws FieldError. */
export function buildRequest(turns) {
  if (!byId("model").value) throw new FieldError(byId("model"), "No model is chosen: the server has listed none.");
  return chosenApi().build({
    model: byId("model").value,
    system: byId("system").value.trim(),
    tools: readTools(),
    toolChoice: byId("tool-choice").value,
    effort: byId("thinking").value,
    temperature: readNumber("temperature"),
    maxTokens: readNumber("max-tokens"),
    stream: byId("stream").checked,
  }, turns);
}

function readNumber(id) {
  const field = byId(id);
  if (!field.checkValidity()) throw new FieldError(field, `${id}: ${field.validationMessage}`);
  return field.value === "" ? null : Number(field.value);
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
    const names = readTools().map((tool) => tool?.function?.name ?? tool?.name ?? "(no name)");
    note.textContent = names.length ? `Offers ${names.join(", ")}` : "";
    field.removeAttribute("aria-invalid");
  } catch (error) {
    note.textContent = error.message;
    field.setAttribute("aria-invalid", "true");
  }
}
