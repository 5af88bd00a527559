// The key: kept in this tab's memory and session storage, sent nowhere but to the server this page came from.

import { byId } from "./dom.js";

const KEY = "console-key";
const PLANE = "console-plane";
const memory = new Map();

function read(name) {
  try {
    return sessionStorage.getItem(name) ?? memory.get(name) ?? "";
  } catch {
    return memory.get(name) ?? "";
  }
}

function write(name, value) {
  memory.set(name, value);
  try {
    if (value) sessionStorage.setItem(name, value);
    else sessionStorage.removeItem(name);
  } catch {
    // then it lives as long as the page
  }
}

/** Headers that say who asks; none when no key was given. */
export function credentials() {
  const headers = {};
  if (read(KEY)) headers.authorization = `Bearer ${read(KEY)}`;
  if (read(PLANE)) headers["openai-project"] = read(PLANE);
  return headers;
}

let asking = null;

/**
 * Ask for a key in the dialog.
 * @param {string} [why] - a sentence instead of the usual one.
 * @returns {Promise<boolean>} whether one was given (or the old one taken away).
 */
export function askForKey(why) {
  asking ??= ask(why).finally(() => (asking = null));
  return asking;
}

function ask(why) {
  const dialog = byId("key-dialog");
  const usual = dialog.dataset.usual ?? (dialog.dataset.usual = byId("key-why").textContent);
  byId("key-why").textContent = why ? `${why} ${usual}` : usual;
  byId("key-input").value = read(KEY);
  byId("plane-input").value = read(PLANE);
  dialog.returnValue = "";
  dialog.showModal();
  byId("key-input").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "given"), { once: true });
  });
}

/** Make the dialog and its button work. `onChange` is called after a key was given or taken away. */
export function setUpKey(onChange) {
  const dialog = byId("key-dialog");
  byId("key-button").addEventListener("click", async () => {
    if (await askForKey()) onChange();
  });
  byId("key-cancel").addEventListener("click", () => dialog.close("cancelled"));
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    write(KEY, byId("key-input").value.trim());
    write(PLANE, byId("plane-input").value.trim());
    byId("key-input").value = "";
    showKeyState();
    dialog.close("given");
  });
  showKeyState();
}

function showKeyState() {
  byId("key-button").textContent = read(KEY) ? "Key set" : "Key";
}
