// One request and its answer, with the times at which things happened by this browser's clock.

import { ApiError, sendChat } from "./api.js";
import { emptyAnswer, foldChunk, wholeAnswer } from "./fold.js";
import { noteLimits } from "./limits.js";
import { readEvents } from "./stream.js";

const MOST_RAW = 2000; // lines kept for the raw view

/**
 * @typedef {object} Exchange
 * @property {object} request - the body that is sent.
 * @property {object} answer - see fold.js; grows while it streams.
 * @property {{at: number, text: string}[]} raw - what arrived, milliseconds after the start.
 * @property {object} times - accepted, firstByte, firstWords, done: milliseconds after `started`.
 * @property {Error|null} error
 */

/** An exchange that has not begun. */
export function newExchange(request) {
  return { request, answer: emptyAnswer(), raw: [], times: {}, started: 0, status: null, jobs: [], headers: {}, error: null };
}

/**
 * Send the request and read its answer.
 * @param {Exchange} exchange - filled in.
 * @param {() => void} onChange - called whenever there is more to show.
 * @param {AbortSignal} signal
 */
export async function run(exchange, onChange, signal) {
  exchange.started = Date.now();
  const zero = performance.now();
  const mark = (name) => (exchange.times[name] ??= performance.now() - zero);
  const keep = (text) => exchange.raw.length < MOST_RAW && exchange.raw.push({ at: performance.now() - zero, text });
  try {
    const response = await sendChat(JSON.stringify(exchange.request), signal);
    if (exchange.request.stream) mark("accepted");
    noteHeaders(exchange, response);
    onChange();
    if (exchange.request.stream) await readStream(exchange, response, { mark, keep, onChange });
    else await readWhole(exchange, response, { mark, keep });
  } catch (error) {
    exchange.status ??= error.status ?? null;
    exchange.error = error;
  }
  mark("done");
  onChange();
}

async function readStream(exchange, response, { mark, keep, onChange }) {
  for await (const event of readEvents(response)) {
    mark("firstByte");
    keep(event.raw);
    if (event.name === "comment" || event.data === "[DONE]") continue;
    const chunk = JSON.parse(event.data);
    if (chunk.error) throw new ApiError(response.status, chunk.error, exchange.headers["x-request-id"]);
    if (foldChunk(exchange.answer, chunk)) mark("firstWords");
    onChange();
  }
  if (!exchange.answer.finish) throw new Error("The stream ended before the answer did.");
}

async function readWhole(exchange, response, { mark, keep }) {
  mark("firstByte");
  const text = await response.text();
  const completion = JSON.parse(text);
  keep(JSON.stringify(completion, null, 2));
  exchange.answer = wholeAnswer(completion);
}

function noteHeaders(exchange, response) {
  exchange.status = response.status;
  exchange.headers = Object.fromEntries(response.headers);
  noteLimits(response.headers);
  exchange.jobs = (exchange.headers["x-narrative-job-id"] ?? "").split(", ").filter(Boolean);
}
