/** `fluxline generate` without a server: what a user sees, and that nothing is left behind. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type RunningCommand, smallModel, startFluxline } from "../support/command.ts";

let folder = "";
let scratch = "";
const started: RunningCommand[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-e2e-"));
  // Where the private stack makes its own folder, so that the test sees what stays.
  scratch = mkdtempSync(join(tmpdir(), "fluxline-e2e-"));
});
afterEach(() => {
  for (const command of started.splice(0)) command.killAll();
  rmSync(folder, { recursive: true, force: true });
  rmSync(scratch, { recursive: true, force: true });
});

function generate(...args: string[]): RunningCommand {
  const argv = ["generate", "a large red circle", "--model", smallModel, ...args];
  const command = startFluxline(argv, { cwd: folder, env: { TMPDIR: scratch } });
  started.push(command);
  return command;
}

async function expectNothingLeft(command: RunningCommand): Promise<void> {
  await command.untilGone();
  expect(readdirSync(scratch)).toEqual([]);
}

const png = Buffer.from([0x89, 0x50, 0x4e, 0x47]);
const jpeg = Buffer.from([0xff, 0xd8, 0xff]);

describe("a picture", () => {
  test("is written, named on stdout, and nothing else stays", async () => {
    const command = generate("--steps", "4", "--seed", "7");
    const { code, stdout, stderr } = await command.ended;
    expect({ code, stdout }, stderr).toEqual({ code: 0, stdout: "fluxline-7.png\n" });
    expect(readdirSync(folder)).toEqual(["fluxline-7.png"]);
    const bytes = readFileSync(join(folder, "fluxline-7.png"));
    expect(bytes.subarray(0, 4)).toEqual(png);
    // Its settings are inside, as people who drop pictures on a page expect.
    expect(bytes.toString("latin1")).toContain("a large red circle");
    expect(stderr).toContain("64x64, 4 steps, seed 7");
    await expectNothingLeft(command);
  });

  test("of the same seed has the same bytes, of another seed others", async () => {
    for (const [seed, name] of [
      ["7", "a.png"],
      ["7", "b.png"],
      ["8", "c.png"],
    ] as const) {
      const command = generate("--steps", "3", "--seed", seed, "--output", name);
      expect((await command.ended).code).toBe(0);
    }
    const [a, b, c] = ["a", "b", "c"].map((name) => readFileSync(join(folder, `${name}.png`)));
    expect(a).toEqual(b);
    expect(a).not.toEqual(c);
  });

  test("can be two, as JPEG", async () => {
    const command = generate("--steps", "2", "--count", "2", "--format", "jpeg", "--seed", "1");
    const { code, stdout } = await command.ended;
    expect({ code, stdout }).toEqual({ code: 0, stdout: "fluxline-1-0.jpg\nfluxline-1-1.jpg\n" });
    const [first, second] = readdirSync(folder).map((name) => readFileSync(join(folder, name)));
    expect(first?.subarray(0, 3)).toEqual(jpeg);
    expect(second?.subarray(0, 3)).toEqual(jpeg);
    expect(first).not.toEqual(second);
  });
});

describe("what cannot work", () => {
  test.each([
    ["a size of 65", ["--width", "65"], "--width: is 65; use a multiple of 16"],
    ["a size of 0", ["--height", "0"], "--height: is 0"],
    ["a negative size", ["--width=-64"], "--width: is -64"],
    ["a size of 100000", ["--width", "100000"], "--width: is 100000"],
    ["no steps", ["--steps", "0"], "--steps: is 0"],
    ["a million steps", ["--steps", "1000000"], "--steps: is 1000000"],
    ["guidance that is no number", ["--guidance", "nan"], "--guidance: is NaN"],
    ["a folder without a model", ["--model", "/nowhere"], "/nowhere: the file does not exist"],
  ])("%s is refused with the way out, and nothing stays", async (_, args, words) => {
    const command = generate(...args);
    const { code, stdout, stderr } = await command.ended;
    expect(stderr).toContain(`error: ${words}`);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(readdirSync(folder)).toEqual([]);
    await expectNothingLeft(command);
  });

  test("Ctrl-C in mid-job ends with 130, no picture, no process, no folder", async () => {
    const command = generate("--steps", "900");
    await command.line((line) => line.startsWith("step "));
    const { code } = await command.stop();
    expect(code).toBe(130);
    expect(readdirSync(folder)).toEqual([]);
    await expectNothingLeft(command);
  });

  test("kill -9 in mid-job leaves no process", async () => {
    const command = generate("--steps", "900");
    await command.line((line) => line.startsWith("step "));
    process.kill(command.pid, "SIGKILL");
    await command.untilGone();
  });
});
