// The APIs that the playground speaks. Each turns the settings and the conversation into a request, and events into an answer.

import { chat } from "./api-chat.js";
import { messages } from "./api-messages.js";
import { responses } from "./api-responses.js";

/**
 * @typedef {object} Api
 * @property {string} path - where requests go, below the server's root.
 * @property {(form: object, turns: object[]) => object} build - the body of a request; form as in request.js.
 * @property {(answer: object, event: object) => boolean} fold - take an event into an answer; whether it brought something to read.
 * @property {(event: object) => object|null} failure - the error object that an event tells of.
 * @property {(body: object) => object} whole - the answer that a whole response holds.
 * @property {object} code - how its libraries are called, see snippets.js.
 *
 * Turns are {role: "user", text}, {role: "assistant", answer} and {role: "results", results: {id, name, content}[]}.
 */
export const APIS = { chat, messages, responses };

/** An answer of which nothing is known yet. Its calls are {id, name, arguments}, its usage {input, output}. */
export function emptyAnswer() {
  return { content: "", reasoning: "", calls: [], finish: null, usage: null };
}
