// One answer from request to last token, with its times. Knows nothing of the page.

import { ChatError, steadyNow, streamChat } from "./api.js";

/**
 * Fills `message` ({content, state, stats, error}) as the answer arrives and calls `changed` after every step.
 * `state`: "waiting" → "streaming" → "done" | "stopped" | "error".
 */
export async function runAnswer(message, body, { key, signal, changed }) {
  const clock = new Clock();
  Object.assign(message, { state: "waiting", stats: {}, error: null });
  changed();
  try {
    for await (const part of streamChat(body, { key, signal })) {
      take(message, part, clock);
      changed();
    }
    message.state = "done";
  } catch (cause) {
    if (signal.aborted) message.state = "stopped";
    else fail(message, cause);
  }
  Object.assign(message.stats, clock.stats());
  changed();
}

function take(message, { text, finish, usage }, clock) {
  if (text) {
    clock.tick();
    message.content += text;
    message.state = "streaming";
    message.stats.ttft = clock.ttft;
  }
  if (finish) message.stats.finish = finish;
  if (usage) {
    clock.tokens(usage.completion_tokens);
    message.stats.prompt = usage.prompt_tokens;
    message.stats.completion = usage.completion_tokens;
    message.stats.cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    Object.assign(message.stats, clock.stats());
  }
}

function fail(message, cause) {
  const error = cause instanceof ChatError ? cause : new ChatError("server", { detail: String(cause) });
  message.state = "error";
  message.error = { kind: error.kind, detail: error.detail, until: steadyNow() + error.retryAfter * 1000 };
}

const SHORTEST = 0.05; // seconds: what came faster came in one read, and its rate would be the network's

/** Times of one stream, in milliseconds; tokens per second count the decode phase: from the first text to the last. */
class Clock {
  #start = performance.now();
  #first = 0;
  #last = 0;
  #count = 0;
  #atFirst = 1; // tokens that came with the first text; exact when the server sends usage with every chunk

  tick() {
    this.#last = performance.now();
    this.#first ||= this.#last;
  }

  tokens(count) {
    if (this.#first === this.#last) this.#atFirst = Math.max(1, count);
    this.#count = count;
  }

  get ttft() {
    return this.#first - this.#start;
  }

  stats() {
    const seconds = (this.#last - this.#first) / 1000;
    const counted = this.#count - this.#atFirst;
    return { total: performance.now() - this.#start, ...(seconds >= SHORTEST && counted > 0 ? { rate: counted / seconds } : {}) };
  }
}
