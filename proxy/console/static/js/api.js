// Calls to the server this page came from: the public APIs, and the console's own three.

import { credentials } from "./key.js";

const ROOT = new URL("../", document.baseURI);

/** The base URL that apps are pointed at, with a path below the server's root. */
export const baseUrl = (path) => new URL(path, ROOT).href.replace(/\/$/, "");

/** An answer that is an error: `status`, and the fields of its API's error object. */
export class ApiError extends Error {
  constructor(status, error, requestId) {
    super(error?.message || `The server answered ${status}.`);
    this.status = status;
    this.type = error?.type ?? null;
    this.code = error?.code ?? null;
    this.param = error?.param ?? null;
    this.requestId = requestId ?? null;
  }
}

async function call(path, options = {}) {
  const response = await fetch(new URL(path, ROOT), {
    ...options,
    headers: { ...credentials(), ...options.headers },
    cache: "no-store",
    credentials: "omit",
  });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(response.status, body?.error, response.headers.get("x-request-id"));
}

function post(path, body, signal) {
  return call(path, { method: "POST", headers: { "content-type": "application/json" }, body, signal });
}

/** Names of the models that are offered. */
export async function listModels() {
  const { data } = await (await call("v1/models")).json();
  return data.map((model) => model.id);
}

/** Send a request. @param {string} body - its JSON. @returns {Promise<Response>} whose headers have arrived. */
export const send = (path, body, signal) => post(path, body, signal);

/** What would be submitted for a request to a path. @returns {{run, jobs, ignored, adjusted}} */
export const showPlan = async (path, body) => (await post(`console/api/plan?path=${encodeURIComponent(`/${path}`)}`, body)).json();

/** State and times of a job that this key had submitted. */
export const showJob = async (id) => (await call(`console/api/jobs/${encodeURIComponent(id)}`)).json();

/** The last requests, without content. @returns {{everyone, requests}} */
export const listRecent = async () => (await call("console/api/recent")).json();

/** The server's metrics, in Prometheus's text format. */
export const readMetrics = async () => (await call("metrics")).text();

/** The newest batches of this key, of both APIs, in one shape. */
export async function listBatches() {
  const [own, messages] = await Promise.all(["v1/batches?limit=50", "v1/messages/batches?limit=50"].map(async (path) => (await (await call(path)).json()).data));
  return [...own.map(fromBatch), ...messages.map(fromMessageBatch)].sort((one, other) => other.created - one.created);
}

function fromBatch(batch) {
  const { total, completed, failed } = batch.request_counts;
  const files = [["Results", batch.output_file_id], ["Errors", batch.error_file_id]]
    .flatMap(([name, id]) => (id ? [{ name, path: `v1/files/${id}/content` }] : []));
  const { id, endpoint, status, created_at: created } = batch;
  return { id, endpoint, status, created, total, failed, done: completed + failed, errors: batch.errors?.data ?? [], files, path: `v1/batches/${id}` };
}

function fromMessageBatch(batch) {
  const counts = batch.request_counts;
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const path = `v1/messages/batches/${batch.id}`;
  const files = batch.results_url ? [{ name: "Results", path: `${path}/results` }] : [];
  const created = Date.parse(batch.created_at) / 1000;
  return { id: batch.id, endpoint: "/v1/messages", status: batch.processing_status, created, total, failed: counts.errored, done: total - counts.processing, errors: [], files, path };
}

/** Begin no more lines of a batch. */
export const cancelBatch = (batch) => call(`${batch.path}/cancel`, { method: "POST" });

/** What is at a path, as a file. */
export const readContent = async (path) => (await call(path)).blob();
