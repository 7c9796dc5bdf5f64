/** What set-up decides without a network: versions, missing packages, and who holds the lock. */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { runCommand } from "./command.mjs";
import { withLock } from "./lock.mjs";
import { isOlder, parseVersion } from "./nats-server.mjs";
import { missingPackages } from "./packages.mjs";

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-setup-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe("versions", () => {
  test.each([
    ["nats-server: v2.14.5", [2, 14, 5]],
    ["go1.26", [1, 26, 0]],
    ["no number", undefined],
  ])("%s", (text, version) => expect(parseVersion(text)).toEqual(version));

  test("are compared number by number", () => {
    expect(isOlder([2, 9, 10], [2, 14, 0])).toBe(true);
    expect(isOlder([2, 14, 0], [2, 14, 0])).toBe(false);
    expect(isOlder([3, 0, 0], [2, 14, 5])).toBe(false);
  });
});

describe("missing packages", () => {
  const lock = (packages: Record<string, object>) => JSON.stringify({ packages });
  const wanted = {
    "": { name: "x" },
    "node_modules/a": { version: "1.0.0" },
    "node_modules/b": { version: "2.0.0" },
    "node_modules/only-elsewhere": { version: "1.0.0", optional: true, os: ["none"], cpu: ["x"] },
    "services/cli": { version: "0.1.0" },
  };
  const install = (packages: Record<string, object>) => {
    mkdirSync(join(folder, "node_modules"));
    writeFileSync(join(folder, "node_modules/.package-lock.json"), lock(packages));
  };
  beforeEach(() => writeFileSync(join(folder, "package-lock.json"), lock(wanted)));

  test("without npm's record, all of them", () => {
    expect(missingPackages(folder)).toEqual(["node_modules"]);
  });
  test("one that is absent and one of another version", () => {
    install({ "node_modules/b": { version: "1.9.0" } });
    expect(missingPackages(folder)).toEqual(["a", "b"]);
  });
  test("a compiled part for this system, though it is optional", () => {
    const part = { version: "1.0.0", optional: true, os: [process.platform], cpu: [process.arch] };
    const lockFile = join(folder, "package-lock.json");
    writeFileSync(lockFile, lock({ "node_modules/compiled": part }));
    install({});
    expect(missingPackages(folder)).toEqual(["compiled"]);
  });
  test("none, though a package of another system is absent", () => {
    install({ "node_modules/a": { version: "1.0.0" }, "node_modules/b": { version: "2.0.0" } });
    expect(missingPackages(folder)).toEqual([]);
  });
});

describe("the lock", () => {
  test("lets one in at a time", async () => {
    const file = join(folder, "lock");
    // Each adds one to a file in two steps; both at once would lose an addition.
    const code =
      `import { withLock } from ${JSON.stringify(new URL("./lock.mjs", import.meta.url).href)};` +
      'import { readFileSync, writeFileSync } from "node:fs";' +
      "await withLock(process.argv[1], async () => {" +
      '  const seen = Number(readFileSync(process.argv[2], "utf8"));' +
      "  await new Promise((resolve) => setTimeout(resolve, 50));" +
      "  writeFileSync(process.argv[2], String(seen + 1));" +
      "});";
    const counter = join(folder, "counter");
    writeFileSync(counter, "0");
    const args = ["--input-type=module", "-e", code, file, counter];
    const one = () => runCommand(process.execPath, args, { limitMs: 30_000 });
    const results = await Promise.all([one(), one(), one()]);
    expect(results.map(({ ok, output }) => (ok ? "ok" : output))).toEqual(["ok", "ok", "ok"]);
    expect(readFileSync(counter, "utf8")).toBe("3");
  }, 30_000);

  test("of a process that died is taken over", async () => {
    const child = spawn(process.execPath, ["-e", ""]);
    await new Promise((resolve) => child.once("exit", resolve));
    const file = join(folder, "lock");
    writeFileSync(file, String(child.pid));
    expect(await withLock(file, async () => "in")).toBe("in");
  });
});

describe("a command", () => {
  test("that runs too long is ended and says so", async () => {
    const result = await runCommand(process.execPath, ["-e", "setTimeout(() => {}, 60_000)"], {
      limitMs: 100,
    });
    expect(result).toMatchObject({ ok: false, reason: expect.stringContaining("0.1 s") });
  });
  test("that does not exist is a result, not a crash", async () => {
    const result = await runCommand("no-such-program-of-ours", [], { limitMs: 1000 });
    expect(result.ok).toBe(false);
  });
});
