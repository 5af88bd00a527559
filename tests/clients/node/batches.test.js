// Files and batches with the official `openai` and `@anthropic-ai/sdk` for Node.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI, { toFile } from "openai";
import { startProxy, until } from "./proxy.js";
import * as scenes from "./scenes.js";

let proxy;
before(async () => {
  proxy = await startProxy();
});
after(() => proxy.stop());

const messages = (content) => [{ role: "user", content }];

test("openai: a file becomes rows", async () => {
  const client = new OpenAI({ baseURL: proxy.baseURL, apiKey: proxy.key });
  const url = "/v1/chat/completions";
  const line = (custom_id, body) => JSON.stringify({ custom_id, method: "POST", url, body });
  const lines = [
    line("good", { model: scenes.MODEL, messages: messages(scenes.SAYS_MARKDOWN) }),
    line("bad", { model: "nobody", messages: messages("Hello!") }),
  ];
  const file = await client.files.create({ file: await toFile(Buffer.from(lines.join("\n")), "requests.jsonl"), purpose: "batch" });
  await client.files.waitForProcessing(file.id);
  const { id } = await client.batches.create({ input_file_id: file.id, endpoint: url, completion_window: "24h" });
  const batch = await until(() => client.batches.retrieve(id), ({ status }) => ["completed", "failed"].includes(status));
  assert.deepEqual(batch.request_counts, { total: 2, completed: 1, failed: 1 });
  const row = JSON.parse(await (await client.files.content(batch.output_file_id)).text());
  assert.equal(row.response.body.choices[0].message.content, scenes.MARKDOWN);
  const error = JSON.parse(await (await client.files.content(batch.error_file_id)).text());
  assert.equal(error.response.body.error.code, "model_not_found");
  const listed = [];
  for await (const each of client.files.list({ purpose: "batch_output" })) listed.push(each.id);
  assert.ok(listed.includes(batch.output_file_id));
});

test("anthropic: a batch of messages", async () => {
  const client = new Anthropic({ baseURL: proxy.url, apiKey: proxy.key });
  const params = { model: scenes.MODEL, max_tokens: 500, messages: messages(scenes.SAYS_MARKDOWN) };
  const { id } = await client.messages.batches.create({
    requests: [{ custom_id: "good", params }, { custom_id: "bad", params: { ...params, model: "nobody" } }],
  });
  await until(() => client.messages.batches.retrieve(id), (batch) => batch.processing_status === "ended");
  const results = {};
  for await (const row of await client.messages.batches.results(id)) results[row.custom_id] = row.result;
  assert.equal(results.good.message.content[0].text, scenes.MARKDOWN);
  assert.equal(results.bad.error.error.type, "not_found_error");
});
