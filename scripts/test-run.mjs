/**
 * Every check and every test suite, one after another, with one line of totals at the end:
 * `N passed, N failed` (`, N skipped` follows when there are any). Suites named as arguments run
 * alone; `all` are all of them, the slow ones too. Each suite has a bound on its time, and one that dies or runs no test counts as a failure.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { killGroup } from "./setup/command.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const MINUTE_MS = 60_000;

const CHECKS = [
  { name: "lint", command: ["oxlint", "--deny-warnings"], limitMs: 2 * MINUTE_MS },
  { name: "format", command: ["oxfmt", "--check", "."], limitMs: 2 * MINUTE_MS },
  { name: "types", command: ["tsc", "-b"], limitMs: 5 * MINUTE_MS },
  { name: "generated", command: ["node", "scripts/generate.mjs", "--check"], limitMs: MINUTE_MS },
];

const SUITES = [
  { name: "unit", limitMs: 5 * MINUTE_MS },
  { name: "sim", limitMs: 5 * MINUTE_MS, mayBeEmpty: true },
  { name: "golden", limitMs: 10 * MINUTE_MS },
  { name: "integration", limitMs: 20 * MINUTE_MS },
  { name: "e2e", limitMs: 15 * MINUTE_MS },
  { name: "chaos", limitMs: 10 * MINUTE_MS },
  { name: "determinism", limitMs: 10 * MINUTE_MS },
  { name: "gpu", limitMs: 10 * MINUTE_MS },
  { name: "slow", limitMs: 15 * MINUTE_MS, onlyWhenNamed: true },
];

async function main(names) {
  const known = ["all", ...[...CHECKS, ...SUITES].map(({ name }) => name)];
  const unknown = names.filter((name) => !known.includes(name));
  if (unknown.length > 0) {
    console.error(`There is no suite ${unknown.join(", ")}; there are ${known.join(", ")}.`);
    return 2;
  }
  const chosen = (each) =>
    names.includes(each.name) ||
    names.includes("all") ||
    (names.length === 0 && !each.onlyWhenNamed);
  const results = [];
  for (const check of CHECKS.filter(chosen)) results.push(await runCheck(check));
  for (const suite of SUITES.filter(chosen)) results.push(await runSuite(suite));
  return summarise(results);
}

async function runCheck({ name, command, limitMs }) {
  const { ok, seconds } = await run(name, command, limitMs);
  return { name, seconds, passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0 };
}

async function runSuite({ name, limitMs, mayBeEmpty = false }) {
  if (mayBeEmpty && !hasTests(join(root, "test", name))) {
    console.log(`\n=== ${name}: there are no such tests yet`);
    return { name, seconds: 0, passed: 0, failed: 0, skipped: 0 };
  }
  const folder = mkdtempSync(join(tmpdir(), "fluxline-test-"));
  const file = join(folder, "report.json");
  const command = ["vitest", "run", "--project", name, "--reporter=default", "--reporter=json"];
  try {
    const { ok, seconds } = await run(name, [...command, `--outputFile.json=${file}`], limitMs);
    const counts = readCounts(file);
    // A crash outside a test, a file that does not load, or no test at all is a failure too.
    const wrong = counts.failed === 0 && (!ok || counts.passed + counts.skipped === 0) ? 1 : 0;
    return { name, seconds, ...counts, failed: counts.failed + wrong };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function hasTests(folder) {
  return existsSync(folder) && readdirSync(folder).some((name) => name.endsWith(".test.ts"));
}

function readCounts(file) {
  try {
    const report = JSON.parse(readFileSync(file, "utf8"));
    const { numPassedTests, numFailedTests, numPendingTests, numTodoTests } = report;
    const skipped = numPendingTests + numTodoTests;
    return { passed: numPassedTests, failed: numFailedTests, skipped };
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
    return { passed: 0, failed: 0, skipped: 0 };
  }
}

function run(name, [program, ...args], limitMs) {
  console.log(`\n=== ${name}: ${[program, ...args].join(" ")}`);
  const begun = Date.now();
  return new Promise((resolve) => {
    const options = { cwd: root, stdio: ["ignore", "inherit", "inherit"], detached: true };
    const child = spawn(program, args, options);
    const stop = () => killGroup(child.pid, "SIGKILL");
    const timer = setTimeout(() => {
      console.error(`=== ${name}: ended after its limit of ${limitMs / MINUTE_MS} minutes`);
      stop();
    }, limitMs);
    const onSignal = () => {
      stop();
      process.exit(130);
    };
    process.once("SIGINT", onSignal).once("SIGTERM", onSignal);
    const done = (ok) => {
      clearTimeout(timer);
      process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
      resolve({ ok, seconds: (Date.now() - begun) / 1000 });
    };
    child.on("error", (error) => {
      console.error(`=== ${name}: ${error.message}`);
      done(false);
    });
    child.on("exit", (code) => done(code === 0));
  });
}

function summarise(results) {
  const total = (key) => results.reduce((sum, result) => sum + result[key], 0);
  const line = ({ passed, failed, skipped }) =>
    `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
  console.log("\n=== summary");
  for (const result of results) {
    console.log(
      `${result.name.padEnd(12)} ${result.seconds.toFixed(1).padStart(7)} s  ${line(result)}`,
    );
  }
  const sum = { passed: total("passed"), failed: total("failed"), skipped: total("skipped") };
  console.log(`\n${line(sum)}`);
  return sum.failed > 0 || sum.passed === 0 ? 1 : 0;
}

process.exitCode = await main(process.argv.slice(2));
