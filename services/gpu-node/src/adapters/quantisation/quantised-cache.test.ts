/** Quantised files on a real disk: made, found, mended, and made once by two who want them. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { tmpdir } from "node:os";
import { AppError } from "@fluxline/kernel/error.ts";
import { Random } from "@fluxline/kernel/random.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { QUANTISED_DATA_START, QuantisedFileLayout } from "../../core/quantised-file.ts";
import type { QuantisedFile } from "../../core/quantised-file.ts";
import { bfloat16Bits, float16Bits } from "../../onnx/float-bits.ts";
import { cacheError } from "./cache-error.ts";
import { prepareQuantised } from "./quantised-cache.ts";

const [OUTPUTS, INPUTS] = [6, 200];
/** Exact in all three types. */
const VALUES = Float32Array.from({ length: OUTPUTS * INPUTS }, (_, at) => ((at * 7) % 129) - 64);

let folder: string;
let lines: { message: string; facts: Readonly<Record<string, unknown>> }[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-quantised-"));
  lines = [];
});

afterEach(() => rmSync(folder, { recursive: true }));

const prepare = (files: readonly QuantisedFile[]) =>
  prepareQuantised(files, {
    threads: 2,
    log: (message, facts) => lines.push({ message, facts }),
  });
const messages = (): string[] => lines.map(({ message }) => message);

const STORED = {
  F32: (values: Float32Array) => new Uint8Array(values.buffer),
  F16: (values: Float32Array) => new Uint8Array(Uint16Array.from(values, float16Bits).buffer),
  BF16: (values: Float32Array) => new Uint8Array(Uint16Array.from(values, bfloat16Bits).buffer),
} as const;

/** A file to be made from a weight that lies behind three other bytes. */
function fileOf(name: string, values = VALUES, dtype: keyof typeof STORED = "F32"): QuantisedFile {
  const bytes = STORED[dtype](values);
  const file = join(folder, `${name}.weights`);
  writeFileSync(file, Buffer.concat([Buffer.of(1, 2, 3), bytes]));
  const place = { folder: join(folder, "cache"), model: "c0ffee" };
  const layout = new QuantisedFileLayout(place, name);
  const shape = [OUTPUTS, INPUTS];
  const source = { name: "linear.weight", shape, dtype, file, offset: 3, length: bytes.length };
  layout.add(source, OUTPUTS, INPUTS);
  return layout.finish();
}

/** What stands in the cache beside the files that are asked for. */
const leftovers = (): string[] => {
  const all = readdirSync(join(folder, "cache/c0ffee"));
  return all.filter((name) => !name.endsWith(".safetensors"));
};

async function refusal(work: Promise<void>): Promise<AppError> {
  const thrown = await work.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (thrown instanceof AppError) return thrown;
  throw new Error(`not an AppError: ${String(thrown)}`);
}

test("files are made of what type ever the weights are stored in, to the same codes", async () => {
  const files = (["F32", "F16", "BF16"] as const).map((type) => fileOf(type, VALUES, type));
  await prepare(files);
  const [first, ...others] = files.map(({ file }) => readFileSync(file));
  expect(first).toHaveLength(files[0]!.bytes);
  for (const other of others) expect(other).toEqual(first);
  expect(leftovers()).toEqual([]);
  expect(messages()).toEqual(["making weights in int8", "weights in int8 made"]);
  expect(lines[1]!.facts).toMatchObject({ files: 3, parameters: 3 * OUTPUTS * INPUTS });
});

test("files that are there are found, not made", async () => {
  const files = [fileOf("a"), fileOf("b")];
  await prepare(files);
  lines = [];
  rmSync(files[0]!.tensors[0]!.source.file); // the weights are not needed any more
  await prepare(files);
  expect(messages()).toEqual(["weights in int8 found in the cache"]);
  expect(lines[0]!.facts).toMatchObject({ files: 2 });
});

test("whoever fetches the checkpoint is asked for what is to be read, and for nothing else", async () => {
  const [known, wanted] = [fileOf("known"), fileOf("wanted")];
  await prepare([known]);
  const source = wanted.tensors[0]!.source;
  const weights = readFileSync(source.file);
  rmSync(source.file);
  const asked: unknown[] = [];
  const fetchSources = async (sources: readonly unknown[]): Promise<void> => {
    asked.push(...sources);
    writeFileSync(source.file, weights);
  };
  await prepareQuantised([known, wanted], { threads: 1, log: () => undefined, fetchSources });
  expect(asked).toEqual([source]);
  expect(existsSync(wanted.file)).toBe(true);
});

describe("a file is made again when it", () => {
  const damages: Readonly<Record<string, (path: string) => void>> = {
    "was cut short": (path) => truncateSync(path, QUANTISED_DATA_START + 100),
    "is empty": (path) => truncateSync(path, 0),
    "has one wrong bit in a code": (path) => flip(path, QUANTISED_DATA_START + 300),
    "has one wrong bit in the last scale": (path) => flip(path, readFileSync(path).length - 1),
    "has a wrong header": (path) => flip(path, 40),
  };
  test.each(Object.entries(damages))("%s", async (_, damage) => {
    const file = fileOf("a");
    await prepare([file]);
    const sound = readFileSync(file.file);
    lines = [];
    damage(file.file);
    expect(readFileSync(file.file)).not.toEqual(sound);
    await prepare([file]);
    expect(readFileSync(file.file)).toEqual(sound);
    expect(messages()[0]).toBe("weights in int8 are damaged and are made again");
    expect(lines[0]!.facts).toEqual({ file: file.file });
  });

  function flip(path: string, at: number): void {
    const bytes = readFileSync(path);
    bytes[at]! ^= 1;
    writeFileSync(path, bytes);
  }
});

test("two that want the same files make each once", async () => {
  const random = new Random(3);
  const values = Float32Array.from({ length: OUTPUTS * INPUTS }, () => random.float());
  const files = Array.from({ length: 8 }, (_, index) => fileOf(`block.${index}`, values));
  await Promise.all([prepare(files), prepare(files)]);
  const made = lines.filter(({ message }) => message === "weights in int8 made");
  expect(made.reduce((sum, { facts }) => sum + Number(facts["files"]), 0)).toBe(files.length);
  expect(leftovers()).toEqual([]);
});

test("a lock and a draft of a process that is gone are cleared away", async () => {
  const file = fileOf("a");
  mkdirSync(dirname(file.file), { recursive: true });
  const [lock, draft] = [`${file.file}.lock`, `${file.file}.0.draft`];
  for (const path of [lock, draft]) {
    writeFileSync(path, "");
    const before = new Date(Date.now() - 120_000);
    utimesSync(path, before, before);
  }
  await prepare([file]);
  expect(existsSync(file.file)).toBe(true);
  expect(leftovers()).toEqual([]);
});

test("a disk that is full while a file is written is said as such", () => {
  for (const code of ["ENOSPC", "EDQUOT"]) {
    const thrown = Object.assign(new Error(`${code}: write`), { code });
    expect(cacheError(thrown, "/cache/a")).toMatchObject({ reason: "CACHE_DISK_FULL" });
  }
  const other = new Error("not of the file system");
  expect(cacheError(other, "/cache/a")).toBe(other);
});

describe("refused with its reason and the way out is", () => {
  test("a weight that is no number", async () => {
    const values = VALUES.slice();
    values[2 * INPUTS + 150] = NaN;
    const error = await refusal(prepare([fileOf("a", values)]));
    expect(error.reason).toBe("CHECKPOINT_INVALID");
    expect(error.message).toMatch(/a\.weights: linear\.weight: row 2 .*use float32/);
    expect(leftovers()).toEqual([]);
  });

  test("a weight that its file does not hold", async () => {
    const file = fileOf("a");
    truncateSync(file.tensors[0]!.source.file, 1000);
    expect((await refusal(prepare([file]))).message).toContain("the file ends before it");
  });

  test("a folder that cannot be written to", async () => {
    const file = fileOf("a");
    writeFileSync(join(folder, "cache"), "a file where the folder should be");
    const error = await refusal(prepare([file]));
    expect(error.reason).toBe("CACHE_NOT_USABLE");
    expect(error.message).toContain("FLUXLINE_CACHE");
  });

  test("a folder that exists and says that it does not, without waiting for ever", async () => {
    const file = { ...fileOf("a"), file: "/proc/none/quantised/a.safetensors" };
    expect((await refusal(prepare([file]))).reason).toBe("CACHE_NOT_USABLE");
  });

  test("more than the disk holds, before anything is written", async () => {
    const error = await refusal(prepare([{ ...fileOf("a"), bytes: 2 ** 60 }]));
    expect(error.reason).toBe("CACHE_DISK_FULL");
    expect(error.message).toMatch(/need \d+ bytes and \d+ are free; make room/);
    expect(leftovers()).toEqual([]);
  });
});
