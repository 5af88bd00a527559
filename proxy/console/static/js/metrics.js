// Prometheus's text format → numbers, and two samples of them → rates.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const CHAT = "/chat/completions";
const OWN_ROUTES = /^\/(console|metrics|healthz|readyz)/;

/** @returns {{name: string, labels: object, value: number}[]} */
export function parseMetrics(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    found.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return found;
}

/** What the charts need of one reading. Counters grow from the server's start; `answers` and `delays` are lists of [upper bound, count]. */
export function sampleOf(text, at) {
  const metrics = parseMetrics(text);
  const sum = (name, wanted = () => true) =>
    metrics.filter((m) => m.name === name && wanted(m.labels)).reduce((total, m) => total + m.value, 0);
  const apps = ({ route }) => !OWN_ROUTES.test(route);
  return {
    at,
    jobs: sum("proxy_jobs_in_flight"),
    waiting: sum("proxy_submissions_waiting"),
    requests: sum("proxy_requests_total", apps),
    errors: sum("proxy_requests_total", (labels) => apps(labels) && Number(labels.status) >= 400 && labels.status !== "499"),
    calls: sum("proxy_upstream_calls_total"),
    answers: bucketsOf(metrics.filter(({ name, labels }) => name === "proxy_request_seconds_bucket" && labels.route === CHAT)),
    delays: bucketsOf(metrics.filter(({ name }) => name === "proxy_end_notice_seconds_bucket")),
  };
}

function bucketsOf(metrics) {
  const counts = new Map();
  for (const { labels, value } of metrics) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return [...counts].sort(([one], [other]) => one - other);
}

/** How much a counter grew a second between two samples; null where the server began anew in between. */
export function rate(before, after, name) {
  const seconds = (after.at - before.at) / 1000;
  const grown = after[name] - before[name];
  return seconds > 0 && grown >= 0 ? grown / seconds : null;
}

/**
 * The seconds that a share of what happened between two samples stayed under; null when nothing did.
 * Within a bucket it is drawn as a straight line, as Prometheus does.
 */
export function quantile(before, after, share) {
  const old = new Map(before);
  const counts = after.map(([bound, count]) => [bound, count - (old.get(bound) ?? 0)]);
  const total = counts.at(-1)?.[1] ?? 0;
  if (!(total > 0)) return null;
  let [lower, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= share * total) {
      if (bound === Infinity) return lower;
      return lower + ((bound - lower) * (share * total - below)) / (count - below || 1);
    }
    [lower, below] = [bound, count];
  }
  return lower;
}
