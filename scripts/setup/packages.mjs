/**
 * The npm packages: installed when they are missing, incomplete or of another package-lock.json.
 * What is there is read from npm's own record, `node_modules/.package-lock.json`. While npm works a
 * marker stands beside it, so that an install that was cut short is never taken for a whole one.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { findOnPath, runCommand } from "./command.mjs";
import { say, SetupError, step } from "./report.mjs";

const INSTALL_LIMIT_MS = 15 * 60_000;
const NODE_MAJOR = 24;

/** Makes node_modules complete and returns the path of its Node 24. */
export async function ensurePackages(root) {
  const node = join(root, "node_modules/node/bin/node");
  const marker = join(root, "node_modules/.fluxline-installing");
  const wrong = existsSync(marker)
    ? ["all of it: an install was cut short"]
    : missingPackages(root);
  if (wrong.length === 0 && (await nodeMajor(node)) === NODE_MAJOR) {
    say("npm packages: as package-lock.json says");
    return node;
  }
  say(`npm packages: missing or old: ${shortList(wrong.length > 0 ? wrong : ["Node 24"])}`);
  await step("npm install (about a minute the first time)", () => install(root, marker));
  const found = await nodeMajor(node);
  if (found === NODE_MAJOR) return node;
  throw new SetupError(`npm is done, but ${node} is not Node ${NODE_MAJOR} (found ${found})`, [
    "if npm is set not to run install scripts, allow them: npm config set ignore-scripts false",
    "then delete node_modules and run this again",
  ]);
}

/** Packages that the lock file names and node_modules lacks; those for other systems left out. */
export function missingPackages(root) {
  const wanted = readPackages(join(root, "package-lock.json"));
  const recordFile = join(root, "node_modules/.package-lock.json");
  if (!existsSync(recordFile)) return ["node_modules"];
  const installed = readPackages(recordFile);
  return Object.entries(wanted)
    .filter(([path, entry]) => path.startsWith("node_modules/") && !entry.optional)
    .filter(([path, entry]) => {
      const found = installed[path];
      return found === undefined || found.version !== entry.version;
    })
    .map(([path]) => path.replace("node_modules/", ""));
}

function readPackages(file) {
  return JSON.parse(readFileSync(file, "utf8")).packages ?? {};
}

function shortList(names) {
  const shown = names.slice(0, 3).join(", ");
  return names.length > 3 ? `${shown} and ${names.length - 3} more` : shown;
}

/**
 * `npm install --no-save` and not `npm ci`: both take the versions of the lock file, but ci refuses
 * a lock file without the binaries of every other system, which not every registry has.
 */
async function install(root, marker) {
  const modules = join(root, "node_modules");
  if (existsSync(marker) || !existsSync(join(modules, ".package-lock.json"))) {
    rmSync(modules, { recursive: true, force: true });
  }
  mkdirSync(modules, { recursive: true });
  writeFileSync(marker, "Here until npm has finished; left behind, node_modules is made anew.\n");
  // Not the Node inside node_modules: npm may replace it under its own feet.
  const node = findOnPath("node", modules) ?? process.execPath;
  const npm = npmCommand(node, modules);
  const path = (process.env.PATH ?? "").split(delimiter).filter((at) => !at.startsWith(modules));
  const env = {
    ...process.env,
    PATH: [dirname(node), ...path].join(delimiter),
    // The CPU runtime is in the package; its script would fetch a CUDA build of hundreds of MB.
    ONNXRUNTIME_NODE_INSTALL: "skip",
  };
  const args = [...npm.args, "install", "--no-save", "--no-audit", "--no-fund"];
  args.push("--loglevel=error", "--include=dev", "--include=optional");
  const result = await runCommand(npm.file, args, { cwd: root, env, limitMs: INSTALL_LIMIT_MS });
  const log = join(root, ".cache/setup/npm-install.log");
  mkdirSync(dirname(log), { recursive: true });
  writeFileSync(log, `${result.output}\n`);
  if (!result.ok) {
    throw new SetupError(`npm failed (${result.reason}):\n${lastLines(result.output, 15)}`, [
      "if the network was the reason, run this again: nothing half-installed is used",
      `the whole output is in ${log}`,
    ]);
  }
  rmSync(marker);
}

/** npm as it was started, or the one on the path. */
function npmCommand(node, modules) {
  const own = process.env.npm_execpath;
  if (own?.endsWith("npm-cli.js") && existsSync(own)) return { file: node, args: [own] };
  const npm = findOnPath("npm", modules);
  if (npm !== undefined) return { file: npm, args: [] };
  throw new SetupError("npm is not on the PATH", ["install npm (on Debian: apt-get install npm)"]);
}

async function nodeMajor(node) {
  if (!existsSync(node)) return undefined;
  const { ok, output } = await runCommand(node, ["--version"], { limitMs: 20_000 });
  return ok ? Number(/^v(\d+)\./.exec(output)?.[1]) : undefined;
}

export const lastLines = (text, count) => text.split("\n").slice(-count).join("\n");
