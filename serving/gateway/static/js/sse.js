// Server-sent events from byte chunks cut anywhere, inside a character or between CR and LF.
// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

export class SSEParser {
  #decoder = new TextDecoder(); // keeps half a character until the rest arrives; drops a leading BOM
  #rest = "";
  #data = [];
  #event = "";
  #afterCR = false;

  /** @param {Uint8Array} bytes  @returns {{event: string, data: string}[]} the events these bytes complete */
  push(bytes) {
    const events = [];
    let text = this.#decoder.decode(bytes, { stream: true });
    if (this.#afterCR && text.length) {
      if (text[0] === "\n") text = text.slice(1);
      this.#afterCR = false;
    }
    if (text.endsWith("\r")) this.#afterCR = true;
    const lines = (this.#rest + text).split(/\r\n|\r|\n/);
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line, events);
    return events;
  }

  #line(line, events) {
    if (line === "") return this.#dispatch(events);
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment: the server's keep-alive
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
  }

  #dispatch(events) {
    if (this.#data.length) events.push({ event: this.#event || "message", data: this.#data.join("\n") });
    this.#data = [];
    this.#event = "";
  }
}
