import { describe, expect, test } from "vitest";
import { cpuDeviceClass, cpuInstructions, numericsClass } from "./numerics-class.ts";

const facts = {
  modelDigest: "0123456789abcdef0123456789abcdef",
  runType: "float32",
  provider: "cpu",
  runtimeVersion: "1.30.0",
  recipe: "fused",
  deviceClass: "avx2+l2:1024K",
  cuts: [3],
  decodeTile: 0,
};
const texts = ["modelDigest", "runType", "provider", "runtimeVersion", "recipe", "deviceClass"];
const cpuinfo = (flags: string): string => `processor\t: 0\nflags\t\t: fpu ${flags} sse4_1\n`;

test("a class is one line that names every part", () => {
  expect(numericsClass(facts)).toBe(
    "model=0123456789abcdef type=float32 provider=cpu onnxruntime=1.30.0 " +
      "device=avx2+l2:1024K recipe=fused-2",
  );
  expect(numericsClass({ ...facts, deviceClass: "NVIDIA H200\n" })).toContain("=NVIDIA-H200- ");
});

test.each(texts)("%s makes another class", (part) => {
  expect(numericsClass({ ...facts, [part]: "other" })).not.toBe(numericsClass(facts));
});

test("tiles of the decoder, and their size, make another class", () => {
  const classes = [0, 256, 512].map((decodeTile) => numericsClass({ ...facts, decodeTile }));
  expect(new Set(classes).size).toBe(3);
  expect(classes[2]).toContain(" decode-tile=512");
});

test.each([
  ["float32 on the CPU", {}, ""],
  ["a simulated device", { provider: "simulated", runType: "float16" }, ""],
  ["int8 on the CPU", { runType: "int8" }, ""],
  ["float16 on the CPU", { runType: "float16" }, " cuts=3"],
  ["int8 on a GPU", { provider: "cuda", runType: "int8" }, " cuts=3"],
  ["a GPU", { provider: "cuda" }, " cuts=3"],
  ["a GPU that is not cut", { provider: "cuda", cuts: [] }, " cuts=none"],
])("the cuts of %s", (_, change, end) => {
  expect(numericsClass({ ...facts, ...change })).toMatch(new RegExp(`recipe=fused-2${end}$`));
});

describe("the class of a CPU", () => {
  test.each([
    [
      "the widest instruction set that kernels go by",
      "avx2 avx512f avx avx512_bf16",
      "avx512_bf16",
    ],
    ["no set that is known", "mmx", "sse4_1"],
  ])("names %s", (_, flags, expected) => {
    expect(cpuInstructions(cpuinfo(flags))).toBe(expected);
  });

  test("of which nothing can be read is generic", () => {
    expect(cpuInstructions("")).toBe("generic");
  });

  test.each([
    ["avx512f avx512_vnni", "avx512f+avx512_vnni+l2:1024K"],
    ["avx2 avx_vnni", "avx2+avx_vnni+l2:1024K"],
    ["avx512f", "avx512f+no_vnni+l2:1024K"],
  ])("names for int8 what multiplies bytes: %s", (flags, expected) => {
    expect(cpuDeviceClass(cpuinfo(flags), "1024K\n", "node-7", "int8")).toBe(expected);
  });

  test("names the second-level cache, or else this machine", () => {
    expect(cpuDeviceClass(cpuinfo("avx2"), "1024K\n", "node-7")).toBe("avx2+l2:1024K");
    for (const unknown of [undefined, "", "?"]) {
      expect(cpuDeviceClass(cpuinfo("avx2"), unknown, "node-7")).toBe("avx2+l2:node-7");
    }
  });
});
