// The conversation as elements. What the model wrote is text; only its answer is read as Markdown, see markdown.js.

import { byId, copyText, duration, element } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { asCurl, asNode, asPython } from "./snippets.js";
import { timeline } from "./timeline.js";

const SNIPPETS = [["curl", asCurl], ["Python", asPython], ["Node", asNode]];

/** What the user said. */
export function userTurn(text) {
  return element("article", { class: "turn user", "aria-label": "You" }, element("div", { class: "said plain" }, text));
}

/** Results that were sent back by hand. */
export function resultsTurn(results) {
  const rows = results.map(({ name, content }) =>
    element("div", { class: "result" }, element("h4", {}, name), element("pre", { tabindex: "0" }, content)),
  );
  return element("article", { class: "turn results", "aria-label": "Tool results" }, ...rows);
}

/**
 * The model's turn, kept up to date by `update()` while it arrives.
 * @param {object} exchange - see exchange.js.
 * @param {{onResults, onRetry, onWire, suggest}} doing - suggest(name) gives a result to start from.
 */
export class AssistantTurn {
  #parts = {
    waiting: element("p", { class: "waiting" }, "Waiting for the job"),
    reasoning: null,
    said: element("div", { class: "said markdown" }),
  };
  #drawn = { content: null, reasoning: null };
  #frame = 0;

  constructor(exchange, doing) {
    this.exchange = exchange;
    this.doing = doing;
    this.node = element("article", { class: "turn assistant", "aria-label": exchange.request.model, "aria-busy": "true" });
    this.node.append(this.#parts.waiting, this.#parts.said);
  }

  /** Draw at the next frame what has arrived. */
  update() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  /** Draw the end: calls to answer, an error, the footer. @param {object|null} job */
  finish(job) {
    cancelAnimationFrame(this.#frame);
    this.#draw();
    const { answer, error } = this.exchange;
    this.#parts.waiting.remove();
    if (this.#parts.reasoning && (answer.content || answer.calls.length)) this.#parts.reasoning.open = false;
    if (answer.calls.length && !error) this.node.append(this.#calls(answer.calls));
    if (error) this.node.append(errorCard(error, this.doing.onRetry));
    this.node.append(this.#footer(job));
    this.node.setAttribute("aria-busy", "false");
  }

  /** Put in the job's times, when they are known. */
  showJob(job) {
    this.node.querySelector(".timeline")?.replaceWith(timeline(this.exchange, job));
  }

  #draw() {
    const { answer } = this.exchange;
    this.#parts.waiting.hidden = Boolean(answer.content || answer.reasoning || answer.calls.length);
    if (answer.reasoning && answer.reasoning !== this.#drawn.reasoning) this.#drawReasoning(answer.reasoning);
    if (answer.content !== this.#drawn.content) this.#parts.said.replaceChildren(renderMarkdown(answer.content));
    this.#drawn = { content: answer.content, reasoning: answer.reasoning };
  }

  #drawReasoning(text) {
    if (!this.#parts.reasoning) {
      this.#parts.reasoning = element("details", { class: "reasoning", open: true },
        element("summary", {}, "Reasoning"), element("div", { class: "plain" }));
      this.node.insertBefore(this.#parts.reasoning, this.#parts.said);
    }
    this.#parts.reasoning.lastChild.textContent = text;
  }

  #calls(calls) {
    const fields = calls.map((call) => callCard(call, this.doing.suggest(call.name)));
    const button = element("button", { type: "submit", class: "primary" }, calls.length > 1 ? "Send results" : "Send result");
    const form = element("form", { class: "calls", "aria-label": "Tool calls" }, ...fields.map(({ card }) => card),
      element("p", { class: "calls-row" }, button));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      for (const { input } of fields) input.readOnly = true;
      button.disabled = true;
      this.doing.onResults(calls.map((call, at) => ({ id: call.id, name: call.name, content: fields[at].input.value })));
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(button);
    });
    return form;
  }

  #footer(job) {
    const { exchange } = this;
    const { answer, times, jobs } = exchange;
    const facts = [
      answer.finish && fact("finish", answer.finish),
      answer.usage && fact("tokens", `${answer.usage.input} in, ${answer.usage.output} out`),
    ];
    const timing = element("details", { class: "timing" },
      element("summary", {}, element("span", { class: "fact-name" }, "time "), duration(times.done)),
      timeline(exchange, job),
      jobs.length ? element("p", { class: "note" }, `job ${jobs.join(", ")}`) : null);
    const tools = element("p", { class: "turn-tools" }, element("span", { class: "fact-name" }, "copy as"),
      ...SNIPPETS.map(([name, write]) => copyButton(name, () => write(exchange.request, exchange.api))),
      element("button", { type: "button", class: "link", onclick: () => this.doing.onWire() }, "On the wire"));
    return element("footer", { class: "turn-foot" }, element("p", { class: "facts" }, ...facts), timing, tools);
  }
}

function fact(name, value) {
  return element("span", { class: "fact" }, element("span", { class: "fact-name" }, `${name} `), value);
}

function callCard(call, suggestion) {
  const input = element("textarea", { class: "code", rows: 3, spellcheck: "false", placeholder: "What the tool answers: text or JSON" });
  input.value = suggestion ?? "";
  const label = element("label", { class: "field" }, element("span", {}, `Result of ${call.name}`), input);
  const card = element("section", { class: "call", "aria-label": `Call of ${call.name}` },
    element("h4", {}, call.name), element("pre", { class: "arguments", tabindex: "0" }, pretty(call.arguments)), label);
  return { card, input };
}

function errorCard(error, onRetry) {
  const stopped = error.name === "AbortError";
  const facts = [error.status, error.code ?? error.type, error.param && `at ${error.param}`, error.requestId].filter(Boolean).join(" · ");
  return element("section", { class: stopped ? "fault stopped" : "fault", role: "alert" },
    element("p", {}, stopped ? "Stopped. A job that was submitted runs on to its end." : error.message),
    facts ? element("p", { class: "note" }, facts) : null,
    element("button", { type: "button", class: "quiet", onclick: onRetry }, "Send again"));
}

function copyButton(name, write) {
  return element("button", { type: "button", class: "link", "aria-label": `Copy as ${name}`, onclick: async ({ currentTarget }) => {
    await copyText(write());
    currentTarget.textContent = "Copied";
    byId("status").textContent = `Copied as ${name}`;
    setTimeout(() => (currentTarget.textContent = name), 1500);
  } }, name);
}

/** JSON text indented; any other text as it is. */
export function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
