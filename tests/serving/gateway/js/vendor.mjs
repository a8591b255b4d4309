// Copies what the chat page uses from node_modules (installed by `npm ci`, so checked against the sha512 of
// package-lock.json) to serving/gateway/static/vendor, byte for byte, with a manifest.   make vendor
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? join(here, "../../../../serving/gateway/static/vendor");

const PACKAGES = [
  { name: "marked", file: "lib/marked.esm.js", as: "marked.js", licence: ["LICENSE"] },
  { name: "dompurify", file: "dist/purify.es.mjs", as: "purify.js", licence: ["LICENSE"] },
  { name: "@highlightjs/cdn-assets", file: "es/highlight.min.js", as: "highlight.js", licence: ["LICENSE"] },
  { name: "temml", file: "dist/temml.mjs", as: "temml.js", licence: ["LICENSE"] },
];

const lock = JSON.parse(readFileSync(join(here, "package-lock.json"), "utf8")).packages;
const sha256 = (path) => createHash("sha256").update(readFileSync(path)).digest("hex");

rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
const manifest = PACKAGES.map(({ name, file, as, licence }) => {
  const source = join(here, "node_modules", name);
  copyFileSync(join(source, file), join(target, as));
  for (const text of licence) copyFileSync(join(source, text), join(target, `${as}.${text}`));
  const { version, integrity, license } = lock[`node_modules/${name}`];
  return { file: as, package: name, version, path: file, license, integrity, sha256: sha256(join(target, as)) };
});
writeFileSync(join(target, "vendor.json"), JSON.stringify(manifest, null, 2) + "\n");
