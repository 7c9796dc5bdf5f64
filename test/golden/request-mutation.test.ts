/**
 * Whole requests catch what no network's golden can: a wrong schedule, noise or argument. Each
 * mistake must move the final latents far outside the tolerance.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { ImageRequest } from "@fluxline/kernel/image-request.ts";
import { describe, expect, test } from "vitest";
import { LATENTS_TOLERANCE, LEAST_MISTAKE, relativeError } from "./comparison.ts";
import { floats, manifest, type RequestCase } from "./golden-data.ts";
import { generate, openModel, toRequest } from "./request-run.ts";

function goldenRequest(checkpoint: string, name: string): RequestCase {
  const found = manifest.requests.find((one) => one.checkpoint === checkpoint && one.name === name);
  assert(found !== undefined, `no golden request ${checkpoint}: ${name}`);
  return found;
}

interface Mistake {
  readonly golden: RequestCase;
  readonly scheduler?: Readonly<Record<string, unknown>>;
  readonly request?: Partial<ImageRequest>;
}

const SQUARE = goldenRequest("dev-like", "square");
const SCHNELL = goldenRequest("schnell-like", "square");
const ODD = goldenRequest("odd-like", "square");
const BOTH_NEGATIVES = goldenRequest("dev-like", "true guidance, both negatives");

const MISTAKES: Readonly<Record<string, Mistake>> = {
  "static shift where it is dynamic": {
    golden: SQUARE,
    scheduler: { use_dynamic_shifting: false },
  },
  "base_shift of 0.6": { golden: SQUARE, scheduler: { base_shift: 0.6 } },
  "mu clamped to base_shift": { golden: SQUARE, scheduler: { max_shift: 0.5 } },
  "shift taken for 1": { golden: ODD, scheduler: { shift: 1 } },
  "shift of 3 where it is 1": { golden: SCHNELL, scheduler: { shift: 3 } },
  "dynamic shift where it is static": {
    golden: SCHNELL,
    scheduler: { use_dynamic_shifting: true },
  },
  "one step more": { golden: SQUARE, request: { steps: 5 } },
  "another seed": { golden: SQUARE, request: { seed: 43n } },
  "guidance 3.4": { golden: SQUARE, request: { guidance: 3.4 } },
  "one token of padding more": { golden: SQUARE, request: { maxSequenceLength: 17 } },
  "prompt_2 ignored": {
    golden: goldenRequest("dev-like", "prompt_2"),
    request: { prompt2: SQUARE.arguments.prompt },
  },
  "negative prompt ignored": { golden: BOTH_NEGATIVES, request: { negativePrompt: undefined } },
  "second negative prompt ignored": {
    golden: BOTH_NEGATIVES,
    request: { negativePrompt2: undefined },
  },
  "true guidance scale of 3.9": { golden: BOTH_NEGATIVES, request: { trueCfgScale: 3.9 } },
  "an empty negative prompt taken for none": {
    golden: goldenRequest("dev-like", "true guidance, empty negative"),
    request: { negativePrompt: undefined },
  },
};

async function latentsError({ golden, scheduler, request }: Mistake): Promise<number> {
  const opened = await openModel(golden.checkpoint, scheduler);
  try {
    const asked = { ...toRequest(opened.model, golden.arguments), ...request };
    const { latents } = await generate(opened, asked);
    const values = latents.flatMap((one) => Array.from(one));
    return relativeError(values, floats(golden.file, golden.outputs["latents"]!));
  } finally {
    await opened.close();
  }
}

describe("is right without a mistake", () => {
  test.for([SQUARE, SCHNELL, ODD, BOTH_NEGATIVES])("$checkpoint: $name", async (golden) => {
    expect(await latentsError({ golden })).toBeLessThanOrEqual(LATENTS_TOLERANCE);
  });
});

describe("is caught", () => {
  test.for(Object.entries(MISTAKES))("%s", async ([, mistake]) => {
    const error = await latentsError(mistake);
    expect(error).toBeGreaterThan(LEAST_MISTAKE * LATENTS_TOLERANCE);
  });
});
