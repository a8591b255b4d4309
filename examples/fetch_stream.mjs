// Streams an answer with nothing but fetch; the same code runs in a browser and in Node 20+.
//   node examples/fetch_stream.mjs "Explain paged attention in one sentence"
// GATEWAY and API_KEY name another server and its key.

const { GATEWAY = "http://127.0.0.1:8080", API_KEY = "" } = globalThis.process?.env ?? {};

/** Yields the answer's text as it is made. Leaving the loop closes the connection, which frees the engine's slot. */
export async function* streamChat(messages, { signal, ...options } = {}) {
  const response = await fetch(`${GATEWAY}/v1/chat/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...(API_KEY && { Authorization: `Bearer ${API_KEY}` }) },
    body: JSON.stringify({ model: "qwen", messages, stream: true, ...options }),
    signal,
  });
  if (!response.ok) throw new Error(`HTTP ${response.status}: ${(await response.json()).error.message}`);
  let rest = "";
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop(); // the beginning of a line whose end is still on its way
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue; // empty lines end events; lines with a leading ":" keep the connection alive
      const data = line.slice("data: ".length).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      yield chunk.choices[0]?.delta.content ?? "";
    }
  }
}

if (globalThis.process?.argv[2]) {
  for await (const text of streamChat([{ role: "user", content: process.argv[2] }], { max_tokens: 64 })) {
    process.stdout.write(text);
  }
  process.stdout.write("\n");
}
