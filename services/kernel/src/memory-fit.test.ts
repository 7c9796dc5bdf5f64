import { describe, expect, test } from "vitest";
import { type ModelProfile, type RequestedImage, resolveRequest } from "./image-request.ts";
import { type MemoryBound, type MemoryDemand, memoryNeed } from "./memory-bound.ts";
import { fitsMemory, pixelsAllowed, pixelsThatFit, rowsThatFit } from "./memory-fit.ts";
import { Random } from "./random.ts";

const GIB = 2 ** 30;
const MEGAPIXEL = 1024 * 1024;

/** A card of 24 GiB of which a step of one row at 1024 x 1024 and its decode take 4 GiB. */
const CARD: MemoryBound = {
  device: "rank 0",
  availableBytes: 24 * GIB,
  fixedBytes: 18.5 * GIB,
  rowBytesPerPixel: (2 * GIB) / MEGAPIXEL,
  rowBytesPerTextToken: (0.5 * GIB) / 512,
  decodeBytesPerPixel: (2 * GIB) / MEGAPIXEL,
  decodePixelsMax: 0,
  encodeBytesPerTextToken: 0,
};

const PROFILE: ModelProfile = {
  family: "flux1",
  name: "flux-dev",
  digest: "00",
  sizeMultiple: 16,
  minSize: 16,
  maxSize: 2048,
  maxPixels: 2_097_152,
  defaultWidth: 1024,
  defaultHeight: 1024,
  minSteps: 1,
  maxSteps: 200,
  defaultSteps: 28,
  guidanceEmbedded: true,
  defaultGuidance: 3.5,
  maxGuidance: 100,
  defaultMaxSequenceLength: 512,
  maxSequenceLengthMax: 512,
  maxImageCount: 10,
  maxPromptBytes: 16_384,
  memory: [],
  advice: {},
};

function resolve(memory: readonly MemoryBound[], change: Partial<RequestedImage> = {}) {
  return resolveRequest({ ...PROFILE, memory }, { prompt: "a red fox", ...change }, 1n);
}

function refused(memory: readonly MemoryBound[], change: Partial<RequestedImage> = {}) {
  const resolution = resolve(memory, change);
  if (resolution.ok) throw new Error("the request was accepted");
  return resolution;
}

describe("a request", () => {
  test("fits where nobody has said what memory there is", () => {
    expect(resolve([], { width: 1024, height: 2048 }).ok).toBe(true);
  });

  test("fits up to the last byte", () => {
    const need = memoryNeed(CARD, { pixels: MEGAPIXEL, textTokens: 512, rows: 1 });
    expect(resolve([{ ...CARD, availableBytes: need }]).ok).toBe(true);
    expect(resolve([{ ...CARD, availableBytes: need - 1 }]).ok).toBe(false);
  });

  test("that does not fit is answered with need, device, parts and the largest that does", () => {
    expect(refused([CARD], { width: 2048, height: 1024 })).toEqual({
      ok: false,
      reason: "DOES_NOT_FIT",
      violations: [
        {
          field: "width",
          description:
            "2048 x 1024 with 512 text tokens needs 27.0 GiB on rank 0, which has 24.0 (weights " +
            "and runtime 18.5, a step of one row 4.5, decoding 4.0, text encoding 0.0); the " +
            "largest of this shape that fits is 1600 x 800",
        },
      ],
    });
  });

  test("names true_cfg_scale where one row instead of two would fit", () => {
    const guided = { trueCfgScale: 4, negativePrompt: "blurry" };
    const { violations } = refused([CARD], guided);
    expect(violations.map(({ field }) => field)).toEqual(["height", "true_cfg_scale"]);
    expect(violations[1]!.description).toContain("is 4, which takes two rows of 1024 x 1024");
    expect(resolve([CARD], { trueCfgScale: 4 }).ok).toBe(true); // without a negative it has no effect
  });

  test("names max_sequence_length where fewer tokens would fit, and how many", () => {
    const tight = { ...CARD, availableBytes: 22.75 * GIB };
    const { violations } = refused([tight]);
    expect(violations.map(({ field }) => field)).toEqual(["height", "max_sequence_length"]);
    expect(violations[1]!.description).toBe("is 512; with at most 256 the picture fits");
    expect(resolve([tight], { maxSequenceLength: 256 }).ok).toBe(true);
    expect(resolve([tight], { maxSequenceLength: 257 }).ok).toBe(false);
  });

  test("is told of the device that lacks the most, and its way out does for all devices", () => {
    const other = { ...CARD, device: "cpu", availableBytes: 20 * GIB };
    const { violations } = refused([CARD, other]);
    expect(violations[0]!.description).toContain("on cpu, which has 20.0");
    expect(violations[0]!.description).toContain("that fits is 512 x 512");
  });

  test("for which not even the weights fit is told so", () => {
    const { violations } = refused([{ ...CARD, availableBytes: 10 * GIB }]);
    expect(violations[0]!.description).toContain("no smaller picture of this shape fits either");
  });

  test("by aspect ratio is refused under that name", () => {
    const { violations } = refused([{ ...CARD, availableBytes: 20 * GIB }], {
      aspectRatio: "16:9",
    });
    expect(violations[0]!.field).toBe("aspect_ratio");
  });

  test("with a wrong field is told of that first", () => {
    expect(refused([CARD], { width: 2048, height: 1024, steps: 0 }).reason).toBe("INVALID_REQUEST");
  });

  test("decoded in tiles needs no more for a larger picture", () => {
    const tiled = { ...CARD, rowBytesPerPixel: 0, decodePixelsMax: 512 * 512 };
    expect(resolve([tiled], { width: 2048, height: 1024 }).ok).toBe(true);
  });
});

test("a pool's limit of pixels is the smaller of what the model makes and what fits", () => {
  expect(pixelsAllowed(PROFILE)).toBe(PROFILE.maxPixels);
  expect(pixelsAllowed({ ...PROFILE, memory: [CARD] })).toBe(1.25 * MEGAPIXEL);
  expect(pixelsAllowed({ ...PROFILE, memory: [{ ...CARD, availableBytes: 100 * GIB }] })).toBe(
    PROFILE.maxPixels,
  );
});

/** Bounds of any kind: with and without tiles, with parts that cost nothing. */
function drawBound(random: Random): MemoryBound {
  const perPixel = (): number => random.below(3) * 500 * random.float();
  return {
    device: "rank 0",
    availableBytes: random.below(4 * GIB),
    fixedBytes: random.below(2 * GIB),
    rowBytesPerPixel: perPixel(),
    rowBytesPerTextToken: perPixel(),
    decodeBytesPerPixel: perPixel(),
    decodePixelsMax: random.below(2) * 512 * 512,
    encodeBytesPerTextToken: perPixel(),
  };
}

const seed = Number(process.env["FLUXLINE_SEED"] ?? Date.now() % 2 ** 31);
/** The first once failed: a need that is met exactly, but for the last bit. */
test.each([511_961_239, seed])("what fits fits, and no more does (FLUXLINE_SEED=%d)", (given) => {
  const random = new Random(given);
  for (let round = 0; round < 2000; round++) {
    const bounds = Array.from({ length: 1 + random.below(3) }, () => drawBound(random));
    const textTokens = 1 + random.below(512);
    const demand = { pixels: 16 * 16 * (1 + random.below(8192)), textTokens };
    const rows = rowsThatFit(bounds, demand);
    const fits = (change: Partial<MemoryDemand>): boolean =>
      fitsMemory(bounds, { ...demand, rows: 1, ...change });
    if (Number.isFinite(rows)) {
      if (fits({ rows: 1 })) expect(fits({ rows })).toBe(true);
      expect(fits({ rows: rows + 1 })).toBe(false);
    }
    const pixels = pixelsThatFit(bounds, { textTokens, rows: 1 });
    if (Number.isFinite(pixels)) {
      if (pixels > 0) expect(fits({ pixels })).toBe(true);
      expect(fits({ pixels: pixels + 2 })).toBe(false); // one for rounding
    }
  }
});
