// What every client is put through: see docs/sandbox.md for the directives.
import { randomUUID } from "node:crypto";
import { z } from "zod";

export const script = (directive) => `[[sandbox ${JSON.stringify(directive)}]]`;

export const MODEL = "claude-4-5-haiku";
export const MARKDOWN = "Some **Markdown**:\n\n```python\n    x = 1\n```\n\nand an emoji: 👩🏽‍🚀, done.";
export const SAYS_MARKDOWN = script({ text: MARKDOWN });
export const ASKS_FOR_WEATHER = "What is the weather in Paris?";
export const WEATHER = "18 degrees and sunny";
export const CALLS_TWICE = script({
  calls: ["Rome", "Oslo"].map((city) => ({ name: "get_weather", arguments: { city } })),
});
export const TOO_LONG = script({ fail: "prompt is too long: 210000 tokens > 200000 maximum" });
export const ENDLESS = script({ state: "running" });
/** Seconds that the job which ends late is silent; heartbeats come eight times in it. */
export const SILENCE_S = Number(process.env.CLIENTS_SILENCE_S ?? 0.4);
export const ENDS_LATE = script({ delay: SILENCE_S, text: MARKDOWN });
export const City = z.object({ name: z.string(), population: z.number(), climate: z.enum(["mild", "harsh"]) });
export const BREAKS = script({ fail: "The GPU melted" });

/** A message whose job fails at first; a repeat would be answered, and paid. */
export const failsOnce = () =>
  script({ key: randomUUID(), attempts: [{ fail: "The GPU melted" }, { text: "Answered to a repeat." }] });

/** An id to send as X-Request-Id, by which a request is found in the proxy's log. */
export const requestId = () => `test-${randomUUID()}`;

/** Options of a request that its client cancels while the job runs, and the request's id. */
export function cancelling() {
  const id = requestId();
  return { id, options: { signal: AbortSignal.timeout(300), headers: { "x-request-id": id } } };
}
