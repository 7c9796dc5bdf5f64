#!/usr/bin/env node
/**
 * `fluxline`: starts the command line under a Node that runs TypeScript. `npx fluxline` finds
 * Node 24 by itself; started by an older one, this file hands over to the one in node_modules.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const NODE_MAJOR = 24;
const repository = new URL("../../../", import.meta.url);

async function main() {
  if (Number(process.versions.node.split(".")[0]) >= NODE_MAJOR) {
    // Compiled code is kept for the next start; what the children load is kept there too.
    process.env.NODE_COMPILE_CACHE ??= fileURLToPath(new URL(".cache/compile", repository));
    // By name only here: an older Node has no such export, and must get as far as handing over.
    const { enableCompileCache } = await import("node:module");
    enableCompileCache(process.env.NODE_COMPILE_CACHE);
    await import("../src/main.ts");
    return;
  }
  const node = fileURLToPath(new URL("node_modules/node/bin/node", repository));
  if (!existsSync(node)) {
    console.error(`fluxline needs Node ${NODE_MAJOR}; this is ${process.version}.`);
    console.error("way out: run `npm run setup` in this checkout, then `npx fluxline`.");
    process.exitCode = 1;
    return;
  }
  const self = fileURLToPath(import.meta.url);
  const child = spawn(node, [self, ...process.argv.slice(2)], { stdio: "inherit" });
  // Ctrl-C in a terminal reaches the child by itself.
  process.on("SIGINT", () => undefined);
  process.on("SIGTERM", () => child.kill("SIGTERM"));
  child.on("exit", (code) => {
    process.exitCode = code ?? 1;
  });
}

await main();
