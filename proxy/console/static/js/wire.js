// What went over the wires for one exchange: the request, the job submitted for it, and what came back, as it came.

import { showPlan } from "./api.js";
import { byId, duration, element } from "./dom.js";

let shown = null;

/** Make the panel open and close. */
export function setUpWire() {
  byId("wire-toggle").addEventListener("click", () => openWire(byId("wire-panes").hidden));
}

/** Open or close the panel. */
export function openWire(open) {
  byId("wire-panes").hidden = !open;
  byId("wire").classList.toggle("open", open);
  byId("wire-toggle").setAttribute("aria-expanded", String(open));
  if (open && shown) loadPlan(shown);
}

/** Show an exchange from now on; call again when it has grown. */
export function showOnWire(exchange) {
  const fresh = shown !== exchange;
  shown = exchange;
  byId("wire-summary").textContent = summary(exchange);
  byId("wire-status").textContent = exchange.status ? `${exchange.status} · ${exchange.raw.length} pieces` : "";
  byId("wire-job-id").textContent = exchange.jobs.join(", ");
  if (fresh) byId("wire-chunks").replaceChildren();
  for (const { at, text } of exchange.raw.slice(byId("wire-chunks").childElementCount)) {
    byId("wire-chunks").append(element("div", { class: "piece-of-raw" }, element("span", { class: "at" }, `+${duration(at)}`), text));
  }
  if (!fresh) return;
  byId("wire-path").textContent = `POST /${exchange.api.path}`;
  byId("wire-request").textContent = JSON.stringify(exchange.request, null, 2);
  byId("wire-job").textContent = "";
  if (!byId("wire-panes").hidden) loadPlan(exchange);
}

async function loadPlan(exchange) {
  exchange.plan ??= showPlan(exchange.api.path, JSON.stringify(exchange.request)).catch((error) => ({ error }));
  const { run, jobs, ignored, adjusted, error } = await exchange.plan;
  if (shown !== exchange) return;
  const notes = error ? [error.code === "model_not_found" ? "No model of the catalog: what a named endpoint submits is not planned here." : error.message] : [
    jobs > 1 ? `one of ${jobs}` : "",
    adjusted.length ? `adjusted: ${adjusted.join("; ")}` : "",
    ignored.length ? `without effect: ${ignored.join(", ")}` : "",
  ].filter(Boolean);
  const head = ["POST /model-inference/run", ...notes].join("\n");
  byId("wire-job").textContent = error ? notes.join("\n") : `${head}\n\n${JSON.stringify(run, null, 2)}`;
}

function summary({ request, status, times, error }) {
  const end = error ? error.code ?? error.name : times.done ? duration(times.done) : "under way";
  return [request.model, status, end].filter(Boolean).join(" · ");
}
