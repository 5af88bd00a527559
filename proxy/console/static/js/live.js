// The server as it is now: charts from its own metrics, read every two seconds while this view is open, and the last requests.

import { listRecent, readMetrics } from "./api.js";
import { Chart } from "./charts.js";
import { byId, duration, element } from "./dom.js";
import { askForKey } from "./key.js";
import { knownLimits } from "./limits.js";
import { quantile, rate, sampleOf } from "./metrics.js";

const EVERY_MS = 2000;
const MOST = 150; // five minutes
const MINUTE_SAMPLES = 30;
const ROWS = 30;

const number = (value) => (value >= 10 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1));
const seconds = (value) => duration(value * 1000);

const COUNTS = { floor: 4, whole: true };
const SHARES = [{ label: "median", tone: "--tone-1" }, { label: "95 %", tone: "--tone-3" }];

const samples = [];
let timer = null;
let charts = null;
let limits = null;

/** Make the charts; nothing is read yet. */
export function setUpLive() {
  charts = {
    jobs: new Chart("Jobs", [{ label: "in flight", tone: "--tone-1" }, { label: "waiting for a place", tone: "--tone-3" }], number, COUNTS),
    requests: new Chart("Requests a minute", [{ label: "requests", tone: "--tone-1" }, { label: "errors", tone: "--tone-2" }], number, COUNTS),
    answers: new Chart("Time to answer", SHARES, seconds, { floor: 1, whole: false }),
    delay: new Chart("Delay of notice", SHARES, seconds, { floor: 0.1, whole: false }),
    calls: new Chart("Upstream calls a second", [{ label: "calls", tone: "--tone-1" }], number, COUNTS),
  };
  limits = element("div", { class: "limits" });
  const figure = element("figure", { class: "chart" }, element("figcaption", {}, "Limits used by this key"), limits);
  byId("charts").append(...Object.values(charts).map((chart) => chart.node), figure);
  const restyle = () => Object.values(charts).forEach((chart) => chart.restyle());
  document.addEventListener("themechange", restyle);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
}

/** Begin to read. */
export function startLive() {
  if (timer) return;
  timer = setInterval(refresh, EVERY_MS);
  refresh();
}

/** Stop reading. */
export function stopLive() {
  clearInterval(timer);
  timer = null;
}

async function refresh() {
  if (document.hidden) return;
  try {
    const [text, recent] = await Promise.all([readMetrics(), listRecent()]);
    samples.push(sampleOf(text, Date.now()));
    if (samples.length > MOST) samples.shift();
    drawCharts();
    drawLimits();
    drawRecent(recent);
    byId("live-note").textContent = `Every ${EVERY_MS / 1000} s, of the worker process that answers.`;
  } catch (error) {
    byId("live-note").textContent = `Not read: ${error.message}`;
    if (error.status === 401) {
      stopLive();
      if (await askForKey(error.message)) startLive();
    }
  }
}

function drawCharts() {
  const at = samples.map((sample) => sample.at / 1000);
  const minute = (index) => samples[Math.max(index - MINUTE_SAMPLES, 0)];
  const since = (of) => samples.map((sample, index) => (index ? of(minute(index), sample) : null));
  const perMinute = (name) => since((before, after) => scaled(rate(before, after, name), 60));
  charts.jobs.show([at, samples.map((sample) => sample.jobs), samples.map((sample) => sample.waiting)]);
  charts.requests.show([at, perMinute("requests"), perMinute("errors")]);
  const shares = (name) => [0.5, 0.95].map((share) => since((before, after) => quantile(before[name], after[name], share)));
  charts.answers.show([at, ...shares("answers")]);
  charts.delay.show([at, ...shares("delays")]);
  charts.calls.show([at, samples.map((sample, index) => (index ? rate(samples[index - 1], sample, "calls") : null))]);
}

const scaled = (value, by) => (value == null ? null : value * by);

function drawLimits() {
  const rows = knownLimits().map(({ what, limit, used }) =>
    element("label", {}, `${what}: ${used} of ${limit} a minute`, element("meter", { min: 0, max: limit, value: used, high: limit * 0.8 })));
  const none = element("p", { class: "note" }, "The last answer in this tab named no limits.");
  limits.replaceChildren(...(rows.length ? rows : [none]));
}

function drawRecent({ everyone, requests }) {
  byId("recent-note").textContent = everyone ? "without content" : "with this key, without content";
  const rows = requests.slice(0, ROWS).map((entry) =>
    element("tr", { class: entry.status >= 400 ? "bad" : null },
      element("td", {}, new Date(entry.at * 1000).toTimeString().slice(0, 8)),
      element("td", { class: "status" }, entry.status ? String(entry.status) : "…"),
      element("td", { class: "number" }, entry.ms == null ? "under way" : duration(entry.ms)),
      element("td", {}, entry.model || "–"),
      element("td", {}, `${entry.method} ${entry.route}`),
      element("td", { class: "id" }, entry.request_id)));
  const none = element("tr", {}, element("td", { colspan: 6, class: "note" }, "None yet."));
  byId("recent-rows").replaceChildren(...(rows.length ? rows : [none]));
}
