// The proxy on its sandbox, as a process of its own from the project's environment.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { SILENCE_S } from "./scenes.js";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const PYTHON = process.env.PROXY_PYTHON ?? `${ROOT}.venv/bin/python`;
const SETTINGS = {
  PROXY_API_KEYS: "test-key",
  PROXY_SERVER__LOG_FORMAT: "json",
  PROXY_SANDBOX__PENDING_S: "0",
  PROXY_SANDBOX__RUNNING_S: "0",
  PROXY_CHAT__HEARTBEAT_S: String(SILENCE_S / 8),
};

/** Settings for one that sends blanks ahead of plain answers that take long, and begins streams before their jobs end. */
export const BLANKS = { PROXY_CHAT__KEEPALIVE_JSON_S: String(SILENCE_S / 8), PROXY_MESSAGES__HOLD_S: String(SILENCE_S / 8) };

/** Start one on a free port: its URL, the key it accepts, and the log lines of the requests that it is done with. */
export async function startProxy(settings = {}) {
  const inherited = Object.entries(process.env).filter(([name]) => !/^(PROXY|NARRATIVE)_/.test(name));
  const child = spawn(PYTHON, ["-m", "proxy", "serve", "--sandbox", "--port", "0"], {
    cwd: ROOT,
    env: { ...Object.fromEntries(inherited), ...SETTINGS, ...settings },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const done = new Map();
  const logged = (id) => {
    if (!done.has(id)) done.set(id, Promise.withResolvers());
    return done.get(id);
  };
  createInterface({ input: child.stderr }).on("line", (line) => {
    const entry = JSON.parse(line);
    if (entry.event === "request") logged(entry.request).resolve(entry);
  });
  const baseURL = await new Promise((resolve, reject) => {
    child.once("exit", (code) => reject(new Error(`the proxy did not start: exit code ${code}`)));
    createInterface({ input: child.stdout }).on("line", (line) => {
      const found = /base URL\s+(\S+)/.exec(line);
      if (found) resolve(found[1]);
    });
  });
  return {
    baseURL,
    url: baseURL.replace(/\/v1$/, ""),
    key: "test-key",
    /** The log line of a request, by its X-Request-Id; written when the proxy is done with it. */
    ended: (id) => logged(id).promise,
    /** How many jobs were submitted so far. */
    async jobs() {
      const metrics = await (await fetch(baseURL.replace(/\/v1$/, "/metrics"))).text();
      const counts = metrics.matchAll(/^proxy_jobs_submitted_total\S* (\S+)$/gm);
      return counts.reduce((sum, [, count]) => sum + Number(count), 0);
    },
    async stop() {
      child.kill();
      await once(child, "exit");
    },
  };
}

/** Ask again and again until an answer has what is waited for, at most for a minute: that answer. */
export async function until(ask, holds) {
  const signal = AbortSignal.timeout(60_000);
  for (;;) {
    const answer = await ask();
    if (holds(answer)) return answer;
    await sleep(10, undefined, { signal }); // the proxy is another process, which sets no event of this one
  }
}
