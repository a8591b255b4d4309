// The chat page: composer, keyboard, conversation. One answer runs at a time.

import { listModels } from "./api.js";
import { runAnswer } from "./answer.js";
import { byId, copyText, el } from "./dom.js";
import { currentLanguage, number, setLanguage, t } from "./i18n.js";
import { Settings } from "./settings.js";
import { loadConversation, saveConversation } from "./store.js";
import { MessageView } from "./view.js";

const NEAR_END = 24; // pixels: closer to the end than this, the page follows the text
const log = byId("log");
const input = byId("input");

const settings = new Settings((field) => (field === "api_key" ? loadModels() : drawPage()));
let messages = loadConversation();
let views = [];
let models = [];
let running = null; // AbortController of the answer being made
let editing = false;
let follow = true;

const model = () => models.find(({ id }) => id === byId("model").value) ?? models[0];
const onTouchScreen = () => matchMedia("(pointer: coarse)").matches; // no Shift+Enter, no Esc to tell about
const announce = (words) => (byId("announcer").textContent = words);

// ---------------------------------------------------------------- drawing

function drawAll() {
  views = messages.map((message) => new MessageView(message));
  byId("messages").replaceChildren(...views.map((view) => view.element));
  drawEnds();
  drawPage();
  toEnd();
}

/** The buttons of finished messages: only the last question and the last answer can be changed. */
function drawEnds() {
  const lastUser = messages.findLastIndex(({ role }) => role === "user");
  views.forEach((view, index) => view.finish({ last: index >= lastUser }));
}

function drawPage() {
  document.body.dataset.busy = String(Boolean(running));
  byId("empty").hidden = messages.length > 0;
  byId("stop").hidden = !running;
  byId("send").hidden = Boolean(running);
  byId("send").disabled = !input.value.trim();
  byId("editing").hidden = !editing;
  byId("notice").hidden = !model()?.synthetic;
  byId("model-name").textContent = model()?.id ?? "";
  drawContext();
}

function drawContext() {
  const stats = messages.findLast(({ stats }) => stats?.prompt !== undefined)?.stats;
  const all = model()?.max_model_len;
  const used = stats && stats.prompt + (stats.completion ?? 0);
  const hint = onTouchScreen() ? "" : t("keys");
  byId("context").textContent = used && all ? t("context", { used: number(used), all: number(all) }) : hint;
}

function followText() {
  if (follow) toEnd();
}

function toEnd() {
  log.scrollTop = log.scrollHeight;
  follow = true;
  byId("to-end").hidden = true;
}

function onScroll() {
  follow = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END;
  byId("to-end").hidden = follow;
}

function add(message) {
  const view = new MessageView(message, followText);
  messages.push(message);
  views.push(view);
  byId("messages").append(view.element);
  view.draw();
  return view;
}

/** Forgets the messages from `index` on. */
function truncate(index) {
  messages.length = index;
  for (const view of views.splice(index)) view.element.remove();
}

// ---------------------------------------------------------------- conversation

function send() {
  const content = input.value.trim();
  if (!content || running) return;
  if (editing) truncate(messages.findLastIndex(({ role }) => role === "user"));
  editing = false;
  input.value = "";
  grow();
  add({ role: "user", content, state: "done" });
  answer();
}

/** A question that was too long for the model is left out when others follow it: they would all fail with it. */
const isSent = ({ content }, index) => content && messages[index + 1]?.error?.kind !== "too_long";

async function answer() {
  const system = settings.get("system");
  const history = messages.filter(isSent).map(({ role, content }) => ({ role, content }));
  const body = { ...settings.body(model()?.id), messages: system ? [{ role: "system", content: system }, ...history] : history };
  const message = { role: "assistant", content: "", state: "waiting" };
  running = new AbortController();
  for (const view of views) view.lock();
  const view = add(message);
  drawPage();
  toEnd();
  announce(t("answering"));
  saveConversation(messages);
  await runAnswer(message, body, { key: settings.key, signal: running.signal, changed: view.update });
  running = null;
  finished(message);
}

function finished(message) {
  drawEnds();
  drawPage();
  followText();
  saveConversation(messages);
  announce(message.state === "done" ? t("answered") : message.state === "stopped" ? t("stopped") : "");
  if (message.error?.kind === "auth") settings.open("api_key");
  else if (!matchMedia("(pointer: coarse)").matches) input.focus(); // on a phone that would open the keyboard
  if (!models.length) loadModels();
}

const stop = () => running?.abort();

function retry() {
  if (running) return;
  truncate(messages.findLastIndex(({ role }) => role === "user") + 1);
  answer();
}

function edit() {
  editing = true;
  input.value = messages.findLast(({ role }) => role === "user").content;
  grow();
  drawPage();
  input.focus();
}

function cancelEdit() {
  editing = false;
  input.value = "";
  grow();
  drawPage();
  input.focus();
}

function newChat() {
  stop();
  truncate(0);
  saveConversation(messages);
  cancelEdit();
}

/** Going away in the middle of an answer stops it: the text so far is kept. */
function leave() {
  stop();
  saveConversation(messages);
}

async function loadModels() {
  try {
    models = await listModels(settings.key);
    settings.offer(models);
  } catch (cause) {
    models = [];
    byId("model-name").textContent = cause.kind === "auth" ? t("error_auth") : t("offline");
    return;
  }
  drawPage();
}

// ---------------------------------------------------------------- events

function grow() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
  byId("send").disabled = !input.value.trim();
}

function onKey(event) {
  const composing = event.isComposing || event.keyCode === 229; // an input method's Enter picks a word, it does not send
  if (event.key === "Enter" && !event.shiftKey && !composing) {
    event.preventDefault();
    send();
  }
}

function onEscape(event) {
  if (event.key !== "Escape" || event.isComposing || byId("settings").open) return;
  if (running) stop();
  else if (editing) cancelEdit();
}

async function copy(button, text) {
  await copyText(text);
  button.textContent = t("copied");
  setTimeout(() => (button.textContent = t("copy")), 1500);
}

const ACTIONS = {
  edit,
  retry,
  copy: (button) => copy(button, messages[views.findIndex(({ element }) => element.contains(button))].content),
  "copy-code": (button) => copy(button, button.closest(".code").querySelector("code").textContent.replace(/\n$/, "")),
};

function switchTheme() {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  settings.set("theme", theme);
  window.setTheme(theme);
}

function switchLanguage(name) {
  settings.set("language", name);
  setLanguage(name);
  if (!running) drawAll();
  else drawPage();
}

function listen() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  input.addEventListener("keydown", onKey);
  input.addEventListener("input", grow);
  log.addEventListener("scroll", onScroll, { passive: true });
  document.addEventListener("keydown", onEscape);
  byId("messages").addEventListener("click", ({ target }) => ACTIONS[target.dataset.action]?.(target));
  byId("samples").addEventListener("click", ({ target }) => {
    if (target.dataset.i18n) {
      input.value = target.textContent;
      send();
    }
  });
  const clicks = { stop, "new-chat": newChat, "to-end": toEnd, "cancel-edit": cancelEdit, theme: switchTheme };
  for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener("click", action);
  byId("language").addEventListener("click", () => switchLanguage(currentLanguage() === "en" ? "zh" : "en"));
  byId("open-settings").addEventListener("click", () => settings.open());
  window.addEventListener("pagehide", leave);
}

setLanguage(settings.get("language"));
listen();
drawAll();
loadModels();
input.focus();
