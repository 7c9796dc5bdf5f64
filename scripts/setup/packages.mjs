/**
 * The npm packages: installed when they are missing, incomplete or of another package-lock.json.
 * What is there is read from npm's own record, `node_modules/.package-lock.json`. While npm works a
 * marker stands beside it, so that an install that was cut short is never taken for a whole one.
 */
import { existsSync, mkdirSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { writeFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { findOnPath, killGroup, runCommand } from "./command.mjs";
import { say, SetupError, step } from "./report.mjs";

const INSTALL_LIMIT_MS = 15 * 60_000;
const NODE_MAJOR = 24;
/** npm leaves out, without a word, optional packages that its own Node is too old for. */
const OLDEST_MAJOR_FOR_NPM = 22;

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

/** Packages that the lock file names and node_modules lacks, but for those of other systems. */
export function missingPackages(root) {
  const wanted = readPackages(join(root, "package-lock.json"));
  const recordFile = join(root, "node_modules/.package-lock.json");
  if (!existsSync(recordFile)) return ["node_modules"];
  const installed = readPackages(recordFile);
  return Object.entries(wanted)
    .filter(([path, entry]) => path.startsWith("node_modules/") && isForHere(entry))
    .filter(([path, entry]) => {
      const found = installed[path];
      return found === undefined || found.version !== entry.version;
    })
    .map(([path]) => path.replace("node_modules/", ""));
}

/** Optional packages count only where they name this system: compiled parts that are needed. */
function isForHere({ optional, os, cpu, libc }) {
  if (!optional) return true;
  if (os === undefined || cpu === undefined) return false;
  const glibc = process.report?.getReport().header.glibcVersionRuntime;
  const here = glibc === undefined ? "musl" : "glibc";
  const fits = os.includes(process.platform) && cpu.includes(process.arch);
  return fits && (libc === undefined || libc.includes(here));
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
  endAbandonedInstall(marker);
  if (existsSync(marker) || !existsSync(join(modules, ".package-lock.json"))) {
    rmSync(modules, { recursive: true, force: true });
  }
  mkdirSync(modules, { recursive: true });
  writeFileSync(marker, "");
  const npm = await npmCommand(root);
  const args = ["install", "--no-save", "--include=dev", "--include=optional"];
  // Who finds the marker ends that npm first: it outlives a set-up that was killed.
  const result = await runNpm(npm, args, root, (pid) => writeFileSync(marker, String(pid)));
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

/** Ends an npm that a killed set-up left behind, before it and a new one write the same files. */
function endAbandonedInstall(marker) {
  if (!existsSync(marker)) return;
  const pid = Number(readFileSync(marker, "utf8"));
  const commandLine = `/proc/${pid}/cmdline`;
  if (!(pid > 0) || !existsSync(commandLine)) return;
  // The id may belong to another program by now.
  if (readFileSync(commandLine, "utf8").includes("npm")) killGroup(pid, "SIGKILL");
}

/** @typedef {{ node: string, file: string, args: string[], path: string[] }} Npm */

/**
 * The npm to use, and a Node for it that is not the one inside node_modules (npm may replace that
 * under its own feet) and is new enough.
 * @returns {Promise<Npm>}
 */
async function npmCommand(root) {
  const modules = join(root, "node_modules");
  const path = (process.env.PATH ?? "").split(delimiter).filter((at) => !at.startsWith(modules));
  const node = findOnPath("node", modules) ?? process.execPath;
  const own = npmScript(modules);
  const npm = (under) => ({
    node: under,
    file: own.endsWith(".js") ? under : own,
    args: own.endsWith(".js") ? [own] : [],
    path: [dirname(under), ...path],
  });
  if ((await nodeMajor(node)) >= OLDEST_MAJOR_FOR_NPM) return npm(node);
  return npm(await newerNode(root, npm(node)));
}

/** npm's own script where it can be found, so that any Node can run it; else its command. */
function npmScript(modules) {
  const started = process.env.npm_execpath;
  if (started?.endsWith("npm-cli.js") && existsSync(started)) return started;
  const command = findOnPath("npm", modules);
  if (command === undefined) {
    const wayOut = "install npm (on Debian: apt-get install npm)";
    throw new SetupError("npm is not on the PATH", [wayOut]);
  }
  const script = realpathSync(command);
  return script.endsWith(".js") ? script : command;
}

/** A Node 24 beside node_modules, got by the old npm, for npm to run on. */
async function newerNode(root, oldNpm) {
  const { version } = readPackages(join(root, "package-lock.json"))["node_modules/node"];
  const folder = join(root, `.cache/node-${version}`);
  const node = join(folder, "node_modules/node/bin/node");
  if ((await nodeMajor(node)) === NODE_MAJOR) return node;
  await step(`Node ${version} for npm to run on`, async () => {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "package.json"), JSON.stringify({ private: true }));
    const result = await runNpm(oldNpm, ["install", `node@${version}`], folder);
    if (result.ok && (await nodeMajor(node)) === NODE_MAJOR) return;
    const output = lastLines(result.output, 15);
    throw new SetupError(`Node ${version} could not be got (${result.reason}):\n${output}`, [
      "if the network was the reason, run this again",
      `or install Node ${NODE_MAJOR} on this machine`,
    ]);
  });
  return node;
}

function runNpm(npm, args, cwd, onStart) {
  const env = {
    ...process.env,
    PATH: npm.path.join(delimiter),
    // The CPU runtime is in the package; its script would fetch a CUDA build of hundreds of MB.
    ONNXRUNTIME_NODE_INSTALL: "skip",
  };
  const quiet = ["--no-audit", "--no-fund", "--loglevel=error"];
  const all = [...npm.args, ...args, ...quiet];
  return runCommand(npm.file, all, { cwd, env, limitMs: INSTALL_LIMIT_MS, onStart });
}

async function nodeMajor(node) {
  if (!existsSync(node)) return undefined;
  const { ok, output } = await runCommand(node, ["--version"], { limitMs: 20_000 });
  return ok ? Number(/^v(\d+)\./.exec(output)?.[1]) : undefined;
}

export const lastLines = (text, count) => text.split("\n").slice(-count).join("\n");
