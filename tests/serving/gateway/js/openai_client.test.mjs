// The official `openai` npm package against the gateway. GATEWAY: its base URL.   Started by test_npm.py.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.GATEWAY}/v1`, apiKey: "none", maxRetries: 0 });
const ask = { model: "qwen", messages: [{ role: "user", content: "Say something." }], max_tokens: 8 };

test("lists the model", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes("qwen"), String(names));
});

test("answers", async () => {
  const { choices, usage } = await client.chat.completions.create(ask);
  assert.equal(choices[0].message.role, "assistant");
  assert.ok(choices[0].message.content.length > 0);
  assert.ok(["stop", "length"].includes(choices[0].finish_reason));
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  assert.ok(usage.completion_tokens > 0 && usage.completion_tokens <= 8);
});

test("streams the same text that it answers, with usage last", async () => {
  const seeded = { ...ask, temperature: 0, seed: 7 };
  const whole = await client.chat.completions.create(seeded);
  let text = "";
  let usage = null;
  const finish = [];
  const options = { ...seeded, stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create(options)) {
    assert.equal(usage, null, "nothing comes after usage");
    text += chunk.choices[0]?.delta.content ?? "";
    if (chunk.choices[0]?.finish_reason) finish.push(chunk.choices[0].finish_reason);
    usage = chunk.usage ?? null;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.deepEqual(finish, [whole.choices[0].finish_reason]);
  assert.deepEqual(usage.completion_tokens, whole.usage.completion_tokens);
});

test("the stream helper ends with the whole message", async () => {
  const stream = client.chat.completions.stream(ask);
  let text = "";
  stream.on("content", (delta) => (text += delta));
  const message = await stream.finalMessage();
  assert.equal(message.content, text);
});

test("the responses' stream helper ends with the whole response", async () => {
  const asked = { model: "qwen", input: "Say something.", max_output_tokens: 8, temperature: 0, seed: 7 };
  const whole = await client.responses.create(asked);
  const stream = client.responses.stream(asked);
  let text = "";
  stream.on("response.output_text.delta", ({ delta }) => (text += delta));
  const final = await stream.finalResponse();
  assert.equal(text, whole.output_text);
  assert.equal(final.output_text, whole.output_text);
  assert.equal(final.status, whole.status);
  assert.deepEqual(final.usage.output_tokens, whole.usage.output_tokens);
});

test("n=2 gives two answers", async () => {
  const { choices } = await client.chat.completions.create({ ...ask, n: 2 });
  assert.deepEqual(choices.map(({ index }) => index).sort(), [0, 1]);
});

test("completions stream", async () => {
  let text = "";
  for await (const chunk of await client.completions.create({ model: "qwen", prompt: "Once", max_tokens: 8, stream: true })) {
    text += chunk.choices[0]?.text ?? "";
  }
  assert.ok(text.length > 0);
});

test("abort ends the stream", async () => {
  const controller = new AbortController();
  const long = { ...ask, max_tokens: 400, stream: true, ignore_eos: true };
  let chunks = 0;
  const read = async () => {
    for await (const chunk of await client.chat.completions.create(long, { signal: controller.signal })) {
      if (chunk.choices[0]?.delta.content && ++chunks === 3) controller.abort();
    }
  };
  await read().catch((error) => assert.ok(error instanceof OpenAI.APIUserAbortError, error));
  assert.ok(chunks >= 3 && chunks < 100, String(chunks));
});

test("errors are the SDK's own classes and name the field", async () => {
  await assert.rejects(client.chat.completions.create({ ...ask, model: "nobody" }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ ...ask, temperature: 9 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError, error);
    assert.equal(error.param, "temperature");
    return true;
  });
  await assert.rejects(client.embeddings.create({ model: "qwen", input: "x" }), (error) => {
    assert.ok(error instanceof OpenAI.APIError && error.message.length > 10, error);
    return true;
  });
});
