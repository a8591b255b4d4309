// One message of the conversation on the page.

import { steadyNow } from "./api.js";
import { el, perFrame } from "./dom.js";
import { number, t } from "./i18n.js";
import { MarkdownView } from "./markdown.js";

/** The line under an answer: times and tokens, as far as they are known. */
export function statsLine({ ttft, rate, completion, prompt, cached, finish }) {
  const parts = [];
  if (ttft !== undefined) parts.push(t("ttft", { ms: number(ttft) }));
  if (rate !== undefined) parts.push(t("rate", { n: number(rate, rate < 10 ? 1 : 0) }));
  if (completion) parts.push(t("tokens", { n: number(completion) }));
  if (prompt) {
    parts.push(t(cached ? "prompt_cached" : "prompt", { n: number(prompt), cached: number(cached ?? 0) }));
  }
  if (finish === "length") parts.push(t("cut"));
  if (finish === "repetition") parts.push(t("looped"));
  return parts.join(" · ");
}

const button = (action, words, className = "") =>
  el("button", { type: "button", className, textContent: t(words), "data-action": action });

function copyButtons(body) {
  for (const head of body.querySelectorAll(".code-head:not(:has(button))")) head.append(button("copy-code", "copy"));
}

export class MessageView {
  #message;
  #body = el("div", { className: "body", dir: "auto" });
  #status = el("p", { className: "status" });
  #stats = el("p", { className: "stats" });
  #error = el("div", { className: "error", role: "alert", hidden: true });
  #actions = el("div", { className: "actions" });
  #markdown = null;
  #countdown = 0;

  /** @param {object} message  @param {() => void} drawn called after each paint, to follow the text */
  constructor(message, drawn = () => undefined) {
    this.#message = message;
    this.element = el("article", { className: `message ${message.role}`, "aria-label": t(speaker(message)) });
    this.element.append(this.#body, this.#status, this.#error, this.#stats, this.#actions);
    if (message.role === "assistant") this.#markdown = new MarkdownView(this.#body, () => copyButtons(this.#body));
    this.update = perFrame(() => {
      this.draw();
      drawn();
    });
  }

  draw() {
    const { role, content, state } = this.#message;
    const busy = state === "waiting" || state === "streaming";
    if (role === "user") this.#body.textContent = content;
    else this.#markdown.update(content, { final: !busy });
    this.element.dataset.state = state;
    this.element.setAttribute("aria-busy", String(busy)); // a screen reader then reads the answer once, when it is whole
    this.#status.textContent = state === "waiting" ? t("thinking") : state === "stopped" ? t("stopped") : "";
    this.#stats.textContent = statsLine(this.#message.stats ?? {});
  }

  /** Draws everything, with the buttons a finished message has; `last`: it may be edited or answered again. */
  finish({ last }) {
    this.draw();
    this.#drawError();
    const { role, state, content } = this.#message;
    const actions = [];
    if (content) actions.push(button("copy", "copy"));
    if (last && role === "user") actions.push(button("edit", "edit"));
    if (last && role === "assistant" && state !== "error") actions.push(button("retry", "regenerate"));
    this.#actions.replaceChildren(...actions);
  }

  /** While another answer runs there is nothing to do here. */
  lock() {
    this.#actions.replaceChildren();
    this.element.querySelector("[data-action=retry]")?.remove();
    clearInterval(this.#countdown);
  }

  #drawError() {
    clearInterval(this.#countdown);
    const error = this.#message.error;
    this.#error.hidden = !error;
    if (!error) return;
    const wait = el("span", { className: "wait" });
    const retry = button("retry", "retry", "primary");
    const detail = error.detail ? [el("p", { className: "detail", textContent: error.detail })] : [];
    this.#error.replaceChildren(el("p", {}, t(`error_${error.kind}`), " ", wait), ...detail, retry);
    const tick = () => {
      const seconds = Math.ceil((error.until - steadyNow()) / 1000);
      retry.disabled = seconds > 0;
      wait.textContent = seconds > 0 ? t("wait", { s: seconds }) : "";
      if (seconds <= 0) clearInterval(this.#countdown);
    };
    this.#countdown = setInterval(tick, 250);
    tick();
  }
}

const speaker = ({ role }) => (role === "user" ? "you" : "assistant");
