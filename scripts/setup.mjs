#!/usr/bin/env node
/**
 * Everything a clean checkout needs, then the command that was asked for:
 *
 *   npm run setup              packages, Node 24 and nats-server
 *   npm run demo               the same, then one picture: out/demo.png
 *   npm test [-- SUITE...]     the same, then every check and test (or the suites that are named)
 *
 * This file and `setup/` run on any Node from 18 on, with nothing installed; what they start runs
 * on the Node 24 of node_modules.
 */
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { withLock } from "./setup/lock.mjs";
import { ensureNatsServer } from "./setup/nats-server.mjs";
import { ensurePackages } from "./setup/packages.mjs";
import { say, SetupError } from "./setup/report.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const OLDEST_NODE_MAJOR = 18;
const DEMO_PROMPT = "a large red circle in the top left on a yellow background";

const COMMANDS = {
  setup: () => undefined,
  demo: () => {
    mkdirSync(join(root, "out"), { recursive: true });
    say(`a 64x64 picture of: ${DEMO_PROMPT}`);
    const output = ["--seed", "7", "--output", join(root, "out/demo.png"), "--overwrite"];
    return ["services/cli/bin/fluxline.mjs", "generate", DEMO_PROMPT, ...output];
  },
  test: (suites) => ["scripts/test-run.mjs", ...suites],
};

async function main([name = "setup", ...rest]) {
  if (!Object.hasOwn(COMMANDS, name)) {
    throw new SetupError(`there is no command ${name}`, [
      `use ${Object.keys(COMMANDS).join(", ")}`,
    ]);
  }
  const major = Number(process.versions.node.split(".")[0]);
  if (major < OLDEST_NODE_MAJOR) {
    throw new SetupError(`this is Node ${process.versions.node}`, [
      `install Node ${OLDEST_NODE_MAJOR} or newer (on Debian: apt-get install nodejs npm)`,
    ]);
  }
  const { node, natsServer } = await withLock(join(root, ".cache/setup/lock"), async () => ({
    node: await ensurePackages(root),
    natsServer: await ensureNatsServer(root),
  }));
  const args = COMMANDS[name](rest);
  if (args === undefined) {
    say("ready. Next: npm run demo, npm test, or npx fluxline --help");
    return 0;
  }
  return runUnderNode24(node, natsServer, args);
}

/** Runs the command in the foreground; its exit code is ours. */
function runUnderNode24(node, natsServer, args) {
  const env = {
    ...process.env,
    PATH: [join(root, "node_modules/.bin"), process.env.PATH].join(delimiter),
    FLUXLINE_NATS_SERVER: natsServer,
  };
  return new Promise((resolve, reject) => {
    const child = spawn(node, args, { cwd: root, env, stdio: "inherit" });
    // A terminal sends Ctrl-C to the child itself; a plain kill reaches only us.
    const pass = (signal) => child.kill(signal);
    process.on("SIGTERM", pass).on("SIGINT", () => undefined);
    child.on("error", reject);
    child.on("exit", (code, signal) => resolve(signal === null ? (code ?? 1) : 1));
  });
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  process.stderr.write(`\nsetup: ${error.message}\n`);
  for (const wayOut of error.waysOut) process.stderr.write(`  way out: ${wayOut}\n`);
  process.exitCode = 1;
}
