/**
 * Token ids are those of transformers for every prompt. The control characters among them never
 * get this far in a request (the API refuses them), but a tokenizer must not fall over them.
 */
import { clipTokenizer } from "@fluxline/gpu-node/core/clip-tokenizer.ts";
import { t5Tokenizer } from "@fluxline/gpu-node/core/t5-tokenizer.ts";
import { describe, expect, test } from "vitest";
import { paddedIds, tokens } from "./golden-data.ts";
import { goldenCheckpoint } from "./network-run.ts";

const CLIP_LENGTH = 77;

describe.for(tokens)("$checkpoint", async ({ checkpoint, maxSequenceLengths, cases }) => {
  const files = await goldenCheckpoint(checkpoint);
  const clip = clipTokenizer(files, "tokenizer");
  const t5 = t5Tokenizer(files, "tokenizer_2");

  test.for(cases)("CLIP: $name", ({ prompt, clip: golden }) => {
    const { ids, cut } = clip.encode(prompt, CLIP_LENGTH);
    expect(ids).toEqual(paddedIds(golden.padded));
    expect(cut === undefined).toBe(golden.untruncated.length <= CLIP_LENGTH);
  });

  test.for(cases)("T5: $name", ({ prompt, t5: golden }) => {
    for (const length of maxSequenceLengths) {
      const { ids, cut } = t5.encode(prompt, length);
      expect(ids).toEqual(paddedIds(golden.padded[String(length)]!));
      expect(cut === undefined).toBe(golden.untruncated.length <= length);
    }
  });

  test.for(cases)("untruncated: $name", ({ prompt, clip: clipGolden, t5: t5Golden }) => {
    const [clipLength, t5Length] = [clipGolden.untruncated.length, t5Golden.untruncated.length];
    expect(clip.encode(prompt, clipLength).ids).toEqual(clipGolden.untruncated);
    expect(t5.encode(prompt, t5Length).ids).toEqual(t5Golden.untruncated);
  });
});
