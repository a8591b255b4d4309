// The settings dialog: model, system prompt, sampling, API key. An empty field leaves the choice to the server.

import { byId } from "./dom.js";
import { t } from "./i18n.js";
import { loadKey, loadSettings, saveKey, saveSettings } from "./store.js";

const NUMBERS = ["temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed"];
const FIELDS = ["model", "system", ...NUMBERS];
// An answer ends when its last 120 tokens or more are one pattern, three times or more: refrains and rows of a table pass.
const LOOP = { max_pattern_size: 256, min_pattern_size: 40, min_count: 3 };

export class Settings {
  #values = loadSettings();
  #dialog = byId("settings");
  #changed;

  /** @param {(field: string) => void} changed called when the user has left a changed field */
  constructor(changed) {
    this.#changed = changed;
    this.#fill();
    this.#dialog.addEventListener("input", () => this.#read());
    this.#dialog.addEventListener("change", ({ target }) => this.#changed(target.id));
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
    byId("close-settings").addEventListener("click", () => this.#dialog.close());
    byId("reset").addEventListener("click", () => this.#reset());
  }

  get(name) {
    return this.#values[name] ?? "";
  }

  set(name, value) {
    this.#values[name] = value;
    saveSettings(this.#values);
  }

  get key() {
    return byId("api_key").value.trim();
  }

  open(focus = "system") {
    this.#dialog.showModal();
    byId(focus).focus();
  }

  /** The request body's settings: only what the user chose and is in range. */
  body(model) {
    const chosen = NUMBERS.filter((name) => this.get(name) !== "" && byId(name).validity.valid);
    const loop = this.get("stop_loops") === "off" ? {} : { repetition_detection: LOOP };
    return { model, ...loop, ...Object.fromEntries(chosen.map((name) => [name, Number(this.get(name))])) };
  }

  /** Offers the served models; keeps the chosen one when it is still there. */
  offer(models) {
    const select = byId("model");
    select.replaceChildren(...models.map(({ id }) => new Option(id, id)));
    select.value = models.some(({ id }) => id === this.get("model")) ? this.get("model") : (models[0]?.id ?? "");
  }

  #fill() {
    for (const name of FIELDS) byId(name).value = this.get(name);
    byId("stop_loops").checked = this.get("stop_loops") !== "off";
    byId("api_key").value = loadKey();
    for (const name of NUMBERS) checkRange(byId(name));
  }

  #read() {
    for (const name of FIELDS) this.#values[name] = byId(name).value;
    this.#values.stop_loops = byId("stop_loops").checked ? "" : "off";
    for (const name of NUMBERS) checkRange(byId(name));
    saveSettings(this.#values);
    saveKey(this.key);
  }

  #reset() {
    for (const name of [...FIELDS, "stop_loops"]) if (name !== "model") delete this.#values[name];
    saveSettings(this.#values);
    this.#fill();
    this.offer([...byId("model").options].map(({ value }) => ({ id: value })));
  }
}

function checkRange(input) {
  const { min, max, validity } = input;
  const problem = validity.stepMismatch ? "not_whole" : "out_of_range";
  byId(`${input.id}-problem`).textContent = validity.valid ? "" : t(problem, { min, max: max || "∞" });
}
