// The blocks of docs/connect.md run as they stand, but for the address and the key.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startProxy } from "./proxy.js";

const page = readFileSync(new URL("../../../docs/connect.md", import.meta.url), "utf-8");
const blocks = [...page.matchAll(/^### ([^\n]+)\n(?:(?!^###)[^])*?^```js\n([^]*?)^```$/gm)];
const here = fileURLToPath(new URL(".", import.meta.url));

let proxy;
before(async () => {
  proxy = await startProxy();
});
after(() => proxy.stop());

test("there are blocks", () => assert.ok(blocks.length >= 7));

for (const [, name, block] of blocks) {
  test(name, async () => {
    const text = block.replaceAll("http://127.0.0.1:8080", proxy.url).replaceAll('"any-key"', JSON.stringify(proxy.key));
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", text], { cwd: here });
    assert.match(stdout, /This is the sandbox/);
  });
}
