// The batches of this key: how far they are, and their results, read every two seconds while this view is open.

import { cancelBatch, listBatches, readContent } from "./api.js";
import { announce, byId, element } from "./dom.js";
import { askForKey } from "./key.js";

const EVERY_MS = 2000;
const OPEN = ["validating", "in_progress", "finalizing"];

let timer = null;

/** Begin to read. */
export function startBatches() {
  if (timer) return;
  timer = setInterval(refresh, EVERY_MS);
  refresh();
}

/** Stop reading. */
export function stopBatches() {
  clearInterval(timer);
  timer = null;
}

async function refresh() {
  if (document.hidden) return;
  try {
    draw(await listBatches());
    byId("batches-note").textContent = `Of this key, every ${EVERY_MS / 1000} s.`;
  } catch (error) {
    byId("batches-note").textContent = `Not read: ${error.message}`;
    if (error.status === 401) {
      stopBatches();
      if (await askForKey(error.message)) startBatches();
    }
  }
}

function draw(batches) {
  const focused = document.activeElement?.dataset.action;
  const rows = batches.map((batch) =>
    element("tr", { class: batch.status === "failed" ? "bad" : null },
      element("td", {}, new Date(batch.created * 1000).toLocaleString()),
      element("td", { class: "status" }, batch.status.replaceAll("_", " ")),
      element("td", {}, progressOf(batch)),
      element("td", { class: "number" }, String(batch.failed)),
      element("td", {}, batch.endpoint),
      element("td", { class: "id" }, batch.id),
      element("td", {}, ...actionsOf(batch))));
  const none = element("tr", {}, element("td", { colspan: 7, class: "note" }, "None yet: docs/batches.md says how to send one."));
  byId("batch-rows").replaceChildren(...(rows.length ? rows : [none]));
  if (focused) document.querySelector(`[data-action="${CSS.escape(focused)}"]`)?.focus();
}

function progressOf({ id, total, done, errors }) {
  if (errors.length) {
    const shown = errors.slice(0, 3).map((error) => (error.line ? `line ${error.line}: ${error.code}` : error.code));
    return element("span", { title: errors.map((error) => error.message).join("\n") }, shown.join(", "));
  }
  const label = `${done} of ${total}`;
  return element("span", { class: "progress" },
    element("progress", { max: Math.max(total, 1), value: done, "aria-label": `Progress of ${id}` }), ` ${label}`);
}

function actionsOf(batch) {
  const actions = batch.files.map(({ name, path }) => action(batch, name, () => save(path, `${batch.id}_${name.toLowerCase()}.jsonl`)));
  if (OPEN.includes(batch.status)) actions.push(action(batch, "Cancel", () => cancelBatch(batch).then(refresh)));
  return actions;
}

function action(batch, name, run) {
  const attempt = () => run().catch((error) => {
    byId("batches-note").textContent = error.message;
    announce(error.message);
  });
  return element("button", { type: "button", class: "link", "data-action": `${name} ${batch.id}`, "aria-label": `${name} of ${batch.id}`, onclick: attempt }, name);
}

async function save(path, name) {
  const url = URL.createObjectURL(await readContent(path));
  const link = element("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
