// The OpenAI-compatible API of the server this page came from: models, and one streamed answer.

import { SSEParser } from "./sse.js";

/** Why an answer failed. `kind` names the sentence the page shows (i18n.js: `error_<kind>`). */
export class ChatError extends Error {
  /** @param {string} kind  @param {{detail?: string, retryAfter?: number}} more  retryAfter in seconds */
  constructor(kind, { detail = "", retryAfter = 0 } = {}) {
    super(detail || kind);
    this.kind = kind;
    this.detail = detail;
    this.retryAfter = retryAfter;
  }
}

const url = (path) => new URL(path, document.baseURI); // relative: the page also works behind a path prefix

function headers(key) {
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function request(path, options) {
  try {
    return await fetch(url(path), options);
  } catch (cause) {
    if (options.signal?.aborted) throw cause;
    throw new ChatError("network");
  }
}

/** The served models, as `/v1/models` lists them. */
export async function listModels(key) {
  const response = await request("v1/models", { headers: headers(key) });
  if (!response.ok) throw await errorOf(response);
  return (await response.json()).data;
}

/**
 * Streams one chat completion.
 * @returns {AsyncGenerator<{text?: string, finish?: string, usage?: object}>} text deltas, then why it ended, then usage
 * @throws {ChatError} in every case but an abort of `signal`, which throws the browser's AbortError
 */
export async function* streamChat(body, { key, signal }) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: headers(key),
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } }),
    signal,
  });
  if (!response.ok) throw await errorOf(response);
  let finished = false;
  for await (const { event, data } of eventsOf(response.body, signal)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    const error = chunk.error ?? (event === "error" ? chunk : null);
    if (error) throw errorFrom(error, error.status ? kindOf(error.status) : "broken");
    const choice = chunk.choices?.[0];
    if (choice?.finish_reason) finished = true;
    yield { text: choice?.delta?.content || undefined, finish: choice?.finish_reason || undefined, usage: chunk.usage };
  }
  if (!finished) throw new ChatError("broken");
}

async function* eventsOf(stream, signal) {
  const reader = stream.getReader();
  const parser = new SSEParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } catch (cause) {
    throw signal?.aborted ? cause : new ChatError("broken", { detail: String(cause.message ?? cause) });
  } finally {
    reader.cancel().catch(() => undefined); // already closed or aborted: there is nothing left to cancel
  }
}

async function errorOf(response) {
  const body = await response.json().catch(() => ({})); // a proxy in between may answer in HTML
  const retryAfter = waitSeconds(response.headers.get("Retry-After"));
  return errorFrom(body.error ?? {}, kindOf(response.status), retryAfter);
}

function errorFrom({ message = "", code = "" }, kind, retryAfter = 0) {
  const tooLong = code === "context_length_exceeded" || /context length|maximum context/i.test(message);
  return new ChatError(tooLong ? "too_long" : kind, { detail: message, retryAfter });
}

function kindOf(status) {
  if (status === 401 || status === 403) return "auth";
  if (status === 413) return "too_long";
  if (status === 429) return "busy";
  if (status === 502 || status === 503 || status === 504) return "unavailable";
  return status >= 500 ? "server" : "refused";
}

/** Milliseconds as `Date.now()`, but nobody sets this clock while the page is open. */
export const steadyNow = () => performance.timeOrigin + performance.now();

/** `Retry-After` as seconds: the header carries a number or an HTTP date. */
export function waitSeconds(header, now = Date.now()) {
  if (!header) return 0;
  const seconds = /^\d+(\.\d+)?$/.test(header.trim()) ? Number(header) : (Date.parse(header) - now) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : 0;
}
