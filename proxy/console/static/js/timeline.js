// When what happened: by this browser's clock, and the job's own times by Narrative's.

import { duration, element } from "./dom.js";

const MARKS = [
  ["accepted", "accepted", "The job is submitted; the answer's headers are here."],
  ["firstByte", "first byte", "The first byte of the answer's body."],
  ["firstWords", "first words", "The job ended, its end was noticed, and the answer began."],
  ["done", "done", "The last byte."],
];

/**
 * The time line of an exchange that is done.
 * @param {object} exchange - see exchange.js.
 * @param {{id, state, created_at, ended_at}|null} job - its first job, if its times are known.
 */
export function timeline(exchange, job) {
  const { times, started } = exchange;
  const total = Math.max(times.done ?? 0, 1);
  const accepted = times.accepted ?? times.firstByte ?? total;
  const words = times.firstWords ?? (exchange.request.stream ? total : (times.firstByte ?? total));
  const own = track("this browser", total, [
    ["sending", 0, Math.min(accepted, words)],
    ["waiting", Math.min(accepted, words), words],
    ["reading", words, total],
  ]);
  const bar = jobBar(job, started, total);
  return element(
    "div",
    { class: "timeline" },
    own,
    bar && track("Narrative's job", total, [["job", bar.from, bar.to]]),
    marks(times),
    bar && element("p", { class: "note" }, jobWords(job, bar)),
  );
}

function track(label, total, segments) {
  const line = element("div", { class: "track", "aria-hidden": "true" });
  for (const [kind, from, to] of segments) {
    const piece = element("span", { class: `piece ${kind}` });
    piece.style.left = `${(100 * from) / total}%`;
    piece.style.width = `${Math.max((100 * (to - from)) / total, 0.4)}%`;
    line.append(piece);
  }
  return element("div", { class: "track-row" }, element("span", { class: "track-label" }, label), line);
}

function marks(times) {
  const list = element("dl", { class: "marks" });
  list.append(element("div", {}, element("dt", {}, "submitted"), element("dd", {}, "0 ms")));
  for (const [name, word, meaning] of MARKS) {
    if (times[name] == null) continue;
    list.append(element("div", { title: meaning }, element("dt", {}, word), element("dd", {}, duration(times[name]))));
  }
  return list;
}

/** Where the job lies on the browser's line; moved to its start where the two clocks plainly differ. */
function jobBar(job, started, total) {
  if (!job?.created_at || !job.ended_at) return null;
  const created = Date.parse(job.created_at);
  const took = Date.parse(job.ended_at) - created;
  const offset = created - started;
  const differ = offset < 0 || offset + took > total;
  const from = differ ? 0 : offset;
  return { from, to: Math.min(from + took, total), took, differ };
}

function jobWords(job, bar) {
  const clock = (text) => new Date(text).toISOString().slice(11, 23);
  const times = `${job.state}: created ${clock(job.created_at)}, ended ${clock(job.ended_at)} UTC, ${duration(bar.took)}`;
  return bar.differ ? `${times} (by another clock; drawn from the start)` : times;
}
