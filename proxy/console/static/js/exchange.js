// One request and its answer, with the times at which things happened by this browser's clock.

import { ApiError, send } from "./api.js";
import { emptyAnswer } from "./apis.js";
import { noteLimits } from "./limits.js";
import { readEvents } from "./stream.js";

const MOST_RAW = 2000; // lines kept for the raw view

/**
 * @typedef {object} Exchange
 * @property {import("./apis.js").Api} api - the API it is for.
 * @property {object} request - the body that is sent.
 * @property {object} answer - see apis.js; grows while it streams.
 * @property {{at: number, text: string}[]} raw - what arrived, milliseconds after the start.
 * @property {object} times - accepted, firstByte, firstWords, done: milliseconds after `started`.
 * @property {Error|null} error
 */

/** An exchange that has not begun. */
export function newExchange(api, request) {
  return { api, request, answer: emptyAnswer(), raw: [], times: {}, started: 0, status: null, jobs: [], headers: {}, error: null };
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
    const response = await send(exchange.api.path, JSON.stringify(exchange.request), signal);
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
    const failure = exchange.api.failure(chunk);
    if (failure) throw new ApiError(response.status, failure, exchange.headers["x-request-id"]);
    if (exchange.api.fold(exchange.answer, chunk)) mark("firstWords");
    onChange();
  }
  if (!exchange.answer.finish) throw new Error("The stream ended before the answer did.");
}

async function readWhole(exchange, response, { mark, keep }) {
  mark("firstByte");
  const text = await response.text();
  const body = JSON.parse(text);
  keep(JSON.stringify(body, null, 2));
  exchange.answer = exchange.api.whole(body);
}

function noteHeaders(exchange, response) {
  exchange.status = response.status;
  exchange.headers = Object.fromEntries(response.headers);
  noteLimits(response.headers);
  exchange.jobs = (exchange.headers["x-narrative-job-id"] ?? "").split(", ").filter(Boolean);
}
