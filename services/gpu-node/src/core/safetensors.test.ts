import { AppError } from "@fluxline/kernel/error.ts";
import { describe, expect, test } from "vitest";
import { headerLength, HEADER_BYTES_MAX, parseHeader, type TensorIndex } from "./safetensors.ts";
import { float32FileTensor, safetensorsFile, safetensorsHeader } from "./safetensors-file.ts";

const FILE = "/models/x/transformer/weights.safetensors";

/** The two reads that an adapter does. */
function read(bytes: Uint8Array, fileBytes = bytes.length): TensorIndex {
  const length = headerLength(FILE, fileBytes, bytes.subarray(0, 8));
  return parseHeader(FILE, fileBytes, bytes.subarray(8, 8 + length));
}

function failure(run: () => unknown): AppError {
  try {
    run();
  } catch (thrown) {
    if (thrown instanceof AppError) return thrown;
    throw thrown;
  }
  throw new Error("nothing was wrong");
}

test("finds every tensor's bytes", () => {
  const bytes = safetensorsFile({
    a: float32FileTensor([2, 3], [1, 2, 3, 4, 5, 6]),
    b: { dtype: "BF16", shape: [], data: Uint8Array.of(0x80, 0x3f) },
    empty: { dtype: "F16", shape: [0, 4], data: new Uint8Array() },
  });
  const index = read(bytes);
  expect([...index.keys()]).toEqual(["a", "b", "empty"]);
  const a = index.get("a")!;
  expect(a).toMatchObject({ dtype: "F32", shape: [2, 3], file: FILE, length: 24 });
  expect(new DataView(bytes.buffer).getFloat32(a.offset + 8, true)).toBe(3);
  expect(index.get("b")).toMatchObject({ dtype: "BF16", shape: [], length: 2 });
});

describe("refuses", () => {
  const entry = (from: number, to: number, dtype = "F32", shape: unknown = [(to - from) / 4]) => ({
    dtype,
    shape,
    data_offsets: [from, to],
  });
  const withData = (entries: Record<string, unknown>, dataBytes: number): Uint8Array => {
    const header = safetensorsHeader(entries);
    const bytes = new Uint8Array(header.length + dataBytes);
    bytes.set(header);
    return bytes;
  };
  const prefix = (length: bigint, rest: number): Uint8Array => {
    const bytes = new Uint8Array(8 + rest);
    new DataView(bytes.buffer).setBigUint64(0, length, true);
    return bytes;
  };

  test.for<[string, Uint8Array, string]>([
    ["an empty file", new Uint8Array(), "has 0 bytes"],
    ["a file shorter than the length prefix", new Uint8Array(7), "has 7 bytes"],
    ["a header beyond the end of the file", prefix(100n, 20), "claims 100 bytes"],
    ["a header length of 2^63", prefix(2n ** 63n, 20), "claims 9223372036854775808 bytes"],
    ["a header that is not JSON", prefix(4n, 4), "is not JSON"],
    ["a header that is a JSON list", withData([] as never, 0), "JSON object"],
    ["an entry that is no object", withData({ w: 3 }, 0), ": w: is 3"],
    ["an unknown type", withData({ w: entry(0, 4, "F7") }, 4), ': w: dtype is "F7"'],
    [
      "a type named like an inherited property",
      withData({ w: entry(0, 4, "toString") }, 4),
      "dtype",
    ],
    ["a negative dimension", withData({ w: entry(0, 4, "F32", [-1]) }, 4), "shape is [-1]"],
    ["a dimension that is no number", withData({ w: entry(0, 4, "F32", ["1"]) }, 4), "shape"],
    ["a missing shape", withData({ w: { dtype: "F32", data_offsets: [0, 4] } }, 4), "nothing"],
    ["one offset", withData({ w: { dtype: "F32", shape: [1], data_offsets: [0] } }, 4), "[0]"],
    ["offsets that run backwards", withData({ w: entry(4, 0, "F32", [1]) }, 4), "[4,0]"],
    ["a length that does not fit the shape", withData({ w: entry(0, 4, "F32", [2]) }, 4), "need 8"],
    ["tensors that overlap", withData({ v: entry(0, 8), w: entry(4, 12) }, 12), ": w: "],
    ["a gap between tensors", withData({ v: entry(0, 4), w: entry(8, 12) }, 12), "leaves a gap"],
    ["a gap before the first tensor", withData({ w: entry(4, 8) }, 8), "leaves a gap"],
    ["a tensor beyond the end of the file", withData({ w: entry(0, 8) }, 4), "beyond the file"],
    ["bytes after the last tensor", withData({ w: entry(0, 4) }, 6), "2 bytes after"],
  ])("%s", ([, bytes, words]) => {
    const error = failure(() => read(bytes));
    expect(error.code).toBe("failed_precondition");
    expect(error.reason).toBe("CHECKPOINT_INVALID");
    expect(error.message).toContain(FILE);
    expect(error.message).toContain(words);
    expect(error.violations).toHaveLength(1);
  });

  test("a header above the limit of the format, also in a file that is long enough", () => {
    const bytes = prefix(BigInt(HEADER_BYTES_MAX) + 1n, 0);
    const error = failure(() => headerLength(FILE, HEADER_BYTES_MAX * 3, bytes));
    expect(error.message).toContain("above the limit");
  });

  test("a header that is not UTF-8", () => {
    const error = failure(() => parseHeader(FILE, 20, Uint8Array.of(0x7b, 0xff, 0x7d)));
    expect(error.message).toContain("UTF-8");
  });

  test("a truncated file, whatever its length", () => {
    const bytes = safetensorsFile({ w: float32FileTensor([4], [1, 2, 3, 4]) });
    for (let length = 0; length < bytes.length; length++) {
      expect(failure(() => read(bytes.subarray(0, length))).message).toContain(FILE);
    }
    expect(read(bytes).size).toBe(1);
  });
});
