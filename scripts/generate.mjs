// Generates proto/gen (TypeScript by ts-proto, and the descriptor set that reflection serves) from
// proto/. With --check: generates anew and fails if the files that are checked in differ.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const out = join(root, "proto/gen");

const buf = (...args) => execFileSync("buf", args, { cwd: root, stdio: "inherit" });

function digest() {
  const hash = createHash("sha256");
  const names = readdirSync(out, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  for (const name of names) hash.update(name).update(readFileSync(name));
  return hash.digest("hex");
}

const check = process.argv.includes("--check");
mkdirSync(out, { recursive: true });
const before = check ? digest() : undefined;
buf("lint");
buf("generate");
buf("build", "--as-file-descriptor-set", "-o", "proto/gen/descriptor.binpb");
if (check && digest() !== before) {
  console.error("proto/gen differs from what proto/ generates: run `npm run generate` and commit.");
  process.exit(1);
}
