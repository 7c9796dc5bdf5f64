/** `fluxline generate` without a server: what a user sees, and that nothing is left behind. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { repository, type RunningCommand, smallModel, startFluxline } from "../support/command.ts";
import { noiseRatio } from "../support/noise-ratio.ts";

const shippedModel = `${repository}models/flux-tiny`;

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

const generate = (...args: string[]): RunningCommand => generateWith({}, ...args);

function generateWith(settings: Readonly<Record<string, string>>, ...args: string[]) {
  const argv = ["generate", "a large red circle", "--model", smallModel, ...args];
  const command = startFluxline(argv, { cwd: folder, env: { TMPDIR: scratch, ...settings } });
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
  test("is the same with parts that are loaded for each use", async () => {
    const pictures: Buffer[] = [];
    for (const more of [[], ["--sequential", "clip,t5,vae", "--decode-tile", "128"]]) {
      const name = `${pictures.length}.png`;
      const command = generate("--steps", "2", "--seed", "7", "--output", name, ...more);
      const { code, stderr } = await command.ended;
      expect(code, stderr).toBe(0);
      pictures.push(readFileSync(join(folder, name)));
    }
    expect(pictures[1]).toEqual(pictures[0]); // 64 x 64 is less than a tile
  });

  test("with a part that the model does not have is refused by its name", async () => {
    const { code, stderr } = await generate("--sequential", "t6").ended;
    expect(code).not.toBe(0);
    expect(stderr).toContain("--sequential: names t6; use clip, t5, vae");
  });

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

test("previews are written beside the picture while it is drawn, and change nothing in it", async () => {
  const request = ["--steps", "20", "--seed", "3", "--output"];
  expect((await generate(...request, "plain.png").ended).code).toBe(0);
  const { code, stderr, stdout } = await generate(...request, "a.png", "--previews", "3").ended;
  expect({ code, stdout }).toEqual({ code: 0, stdout: "a.png\n" });
  const previews = ["a-preview-01.png", "a-preview-02.png", "a-preview-03.png"];
  expect(readdirSync(folder).sort()).toEqual([...previews, "a.png", "plain.png"]);
  for (const [i, file] of previews.entries()) {
    expect(stderr).toContain(`preview ${i + 1} of 3, after step ${(i + 1) * 5}: ${file}`);
    expect(readFileSync(join(folder, file)).subarray(0, 4)).toEqual(png);
  }
  const picture = (name: string) => readFileSync(join(folder, name));
  expect(picture("a.png")).toEqual(picture("plain.png"));
});

test("with weights in int8 it is nearly the same picture, and their files are made once", async () => {
  const cache = join(folder, "cache");
  const draw = async (name: string, type: string): Promise<Uint8Array> => {
    const args = ["--model", shippedModel, "--seed", "7", "--output", name, "--run-type", type];
    const { code, stderr } = await generateWith({ FLUXLINE_CACHE: cache }, ...args).ended;
    expect(code, stderr).toBe(0);
    const { default: sharp } = await import("sharp");
    return sharp(join(folder, name)).raw().toBuffer();
  };
  const made = (): string[] => {
    const names = readdirSync(cache, { recursive: true, encoding: "utf8" });
    const files = names.filter((name) => name.endsWith(".safetensors"));
    return files.map((name) => `${name} ${statSync(join(cache, name)).mtimeMs}`).toSorted();
  };
  const exact = await draw("exact.png", "float32");
  expect(existsSync(cache)).toBe(false);
  const first = await draw("first.png", "int8");
  const files = made();
  // Two layers of T5, two double blocks and four single ones.
  expect(files).toHaveLength(8);
  const second = await draw("second.png", "int8");
  expect(made()).toEqual(files);
  expect(second).toEqual(first);
  expect(first).not.toEqual(exact);
  expect(noiseRatio(first, exact)).toBeGreaterThan(40);
});

describe("what cannot work", () => {
  test.each([
    ["a size of 65", ["--width", "65"], "--width: is 65; use a multiple of 16"],
    ["a size of 100000", ["--width", "100000"], "--width: is 100000"],
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

  test.each([
    ["a size of 0", ["--height", "0"], "'0' is invalid. It is not a whole number from 1"],
    ["a negative size", ["--width=-64"], "'-64' is invalid. It is not a whole number from 1"],
    ["no steps", ["--steps", "0"], "'0' is invalid. It is not a whole number from 1"],
    ["a folder that is none", ["--output", "none/a.png"], "none does not exist; make it"],
    ["a lone folder for previews", ["--preview-dir", "."], "--preview-dir: is of no use without"],
  ])("%s is refused with exit code 2 before anything starts", async (_, args, words) => {
    const command = generate(...args);
    const { code, stdout, stderr } = await command.ended;
    expect(stderr).toContain(words);
    expect(stderr).not.toContain("starting");
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
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
