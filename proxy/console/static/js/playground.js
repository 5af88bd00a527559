// The conversation: what is sent when, and what happens to its answer.

import { ApiError, baseUrl, listModels, showJob } from "./api.js";
import { announce, byId, element } from "./dom.js";
import { THINKING, WEATHER } from "./example.js";
import { newExchange, run } from "./exchange.js";
import { askForKey } from "./key.js";
import { FieldError, buildRequest, chosenApi, setUpToolsNote, showToolsNote } from "./request.js";
import { AssistantTurn, resultsTurn, userTurn } from "./turns.js";
import { openWire, setUpWire, showOnWire } from "./wire.js";

const WAIT_FOR_JOB_MS = 300;
const NEAR_PX = 160;
const welcome = byId("welcome");

let turns = []; // see apis.js
let stop = null;
let listed = Promise.resolve(); // when the models are, or cannot be
let atEnd = true; // whether the reader is at the end of the conversation
let height = 0;

/** Make the playground work. */
export function setUpPlayground() {
  showAddress();
  byId("api").addEventListener("change", showAddress);
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (stop) stop.abort();
    else say(byId("prompt").value);
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    if (!stop) say(byId("prompt").value);
  });
  byId("fresh").addEventListener("click", startOver);
  byId("example").addEventListener("click", weatherExample);
  byId("start-tools").addEventListener("click", weatherExample);
  byId("start-thinking").addEventListener("click", thinkingExample);
  byId("settings").addEventListener("submit", (event) => event.preventDefault());
  if (matchMedia("(max-width: 52rem)").matches) byId("settings-fold").open = false;
  setUpToolsNote();
  setUpWire();
  byId("turns").addEventListener("scroll", () => {
    const { scrollHeight, scrollTop, clientHeight } = byId("turns");
    if (clientHeight === height) atEnd = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    height = clientHeight;
  });
  new ResizeObserver(follow).observe(byId("turns"));
}

function showAddress() {
  welcome.querySelector(".address").textContent = baseUrl(chosenApi().path);
}

/** Fill the list of models; asks for a key when the server wants one. */
export function loadModels() {
  return (listed = fillModels());
}

async function fillModels() {
  try {
    const names = await listModels();
    const chosen = byId("model").value;
    byId("model").replaceChildren(...names.map((name) => element("option", { selected: name === chosen }, name)));
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) {
      if (await askForKey(error.message)) await fillModels();
    } else showFault(`The models could not be listed: ${error.message}`);
  }
}

function weatherExample() {
  byId("tools").value = JSON.stringify(WEATHER.tools, null, 2);
  showToolsNote();
  putPrompt(WEATHER.prompt);
}

function thinkingExample() {
  byId("thinking").value = THINKING.effort;
  putPrompt(THINKING.prompt);
}

function putPrompt(text) {
  byId("prompt").value = text;
  byId("prompt").focus();
}

function startOver() {
  stop?.abort();
  turns = [];
  byId("turns").replaceChildren(welcome);
  byId("prompt").focus();
}

async function say(text) {
  if (!text.trim()) return byId("prompt").focus();
  await listed;
  if (stop || !usable()) return;
  turns.push({ role: "user", text });
  show(userTurn(text));
  byId("prompt").value = "";
  ask();
}

function answerCalls(results) {
  turns.push({ role: "results", results });
  show(resultsTurn(results));
  byId("prompt").focus();
  ask();
}

/** Whether the form can be sent; where not, says why and leads there. */
function usable() {
  try {
    buildRequest(turns);
    return true;
  } catch (error) {
    if (!(error instanceof FieldError)) throw error;
    byId("settings-fold").open = true;
    error.field.focus();
    showFault(error.message);
    return false;
  }
}

async function ask() {
  if (!usable()) return;
  const history = turns;
  const exchange = newExchange(chosenApi(), buildRequest(history));
  const turn = new AssistantTurn(exchange, {
    onResults: answerCalls,
    onRetry: () => !stop && ask(),
    onWire: () => {
      showOnWire(exchange);
      openWire(true);
    },
    suggest: (name) => (Object.hasOwn(WEATHER.results, name) ? JSON.stringify(WEATHER.results[name]) : undefined),
  });
  show(turn.node);
  setBusy(new AbortController());
  await run(exchange, () => {
    turn.update();
    showOnWire(exchange);
    follow();
  }, stop.signal);
  setBusy(null);
  if (history !== turns) return; // a new conversation has begun
  if (exchange.error?.status === 401) askForKey(exchange.error.message).then((given) => given && loadModels());
  finish(exchange, turn);
}

function finish(exchange, turn) {
  turn.finish(null);
  showOnWire(exchange);
  follow();
  if (exchange.error) {
    announce(`Error: ${exchange.error.message}`);
    return;
  }
  turns.push({ role: "assistant", answer: exchange.answer });
  const calls = exchange.answer.calls.map((call) => call.name);
  announce(calls.length ? `The model calls ${calls.join(", ")}` : "The answer is complete");
  if (calls.length) turn.node.querySelector(".calls textarea").focus({ preventScroll: true });
  if (exchange.jobs.length) addJobTimes(exchange, turn);
}

/** The job's own times are a bonus: where they cannot be had, the time line does without. */
async function addJobTimes(exchange, turn) {
  try {
    turn.showJob(await showJob(exchange.jobs[0]));
  } catch (error) {
    if (error.status === 404 || error.status === 400 || error.status === 403) return;
    await new Promise((resolve) => setTimeout(resolve, WAIT_FOR_JOB_MS));
    await showJob(exchange.jobs[0]).then((job) => turn.showJob(job), () => {});
  }
}

function setBusy(controller) {
  stop = controller;
  byId("send").textContent = controller ? "Stop" : "Send";
  byId("send").classList.toggle("stop", Boolean(controller));
  byId("turns").setAttribute("aria-busy", String(Boolean(controller)));
}

function show(node) {
  byId("welcome")?.remove();
  byId("turns").append(node);
  node.scrollIntoView({ block: "end" });
}

function showFault(message) {
  show(element("section", { class: "fault", role: "alert" }, element("p", {}, message)));
}

/** Stay at the end while it grows or its room shrinks, unless the reader scrolled up. */
function follow() {
  const last = byId("turns").lastElementChild;
  const narrow = getComputedStyle(byId("turns")).overflowY === "visible"; // then it is the page that scrolls
  if (narrow && !byId("welcome") && last.getBoundingClientRect().bottom - innerHeight < 4 * NEAR_PX) last.scrollIntoView({ block: "end" });
  else if (atEnd) byId("turns").scrollTop = byId("turns").scrollHeight;
}
