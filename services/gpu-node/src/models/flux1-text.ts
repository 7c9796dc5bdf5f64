/**
 * How text becomes conditioning in FLUX.1: the prompt goes to CLIP, which gives one pooled vector;
 * the second prompt goes to T5, which gives one vector per token. What an encoder cannot read any
 * more is said in an advisory.
 */
import { createHash } from "node:crypto";
import { invalidArgument } from "@fluxline/kernel/error.ts";
import type { Advisory, ImageRequest } from "@fluxline/kernel/image-request.ts";
import type { TextEncoding } from "../core/image-model.ts";
import { int64Tensor } from "../core/tensor.ts";
import type { TextTokenizer, TokenizedText } from "../core/text-tokenizer.ts";
import type { Flux1Parts } from "./flux1-parts.ts";

/** Names of the conditioning: inputs of the denoiser. */
export const POOLED_TEXT = "pooled_projections";
export const TEXT = "encoder_hidden_states";

const QUOTE_LETTERS_MAX = 200;

export interface EncodedText {
  readonly encoding: TextEncoding;
  readonly advisories: readonly Advisory[];
}

/** `fields`: names of the request's fields that the two texts came from. */
export interface TextPair {
  readonly clip: string;
  readonly t5: string;
  readonly fields: { readonly clip: string; readonly t5: string };
}

export function positiveText({ prompt, prompt2 }: ImageRequest): TextPair {
  const t5Field = prompt2 === prompt ? "prompt" : "prompt_2";
  return { clip: prompt, t5: prompt2, fields: { clip: "prompt", t5: t5Field } };
}

/** Present where true guidance is on: it takes a scale above 1 and a negative prompt. */
export function negativeText(request: ImageRequest): TextPair | undefined {
  const { negativePrompt, negativePrompt2, trueCfgScale } = request;
  if (negativePrompt === undefined || trueCfgScale <= 1) return undefined;
  const t5Field = negativePrompt2 ? "negative_prompt_2" : "negative_prompt";
  return {
    clip: negativePrompt,
    t5: negativePrompt2 || negativePrompt,
    fields: { clip: "negative_prompt", t5: t5Field },
  };
}

/** `model` names what else the conditioning depends on: the weights and their run type. */
export function encodeText(
  parts: Flux1Parts,
  model: string,
  text: TextPair,
  length: number,
): EncodedText {
  const clip = parts.clipTokenizer.encode(text.clip, parts.clipLength);
  const t5 = parts.t5Tokenizer.encode(text.t5, length);
  checkKnown(text.fields.clip, clip, parts.clip.vocabulary, parts.clipTokenizer);
  checkKnown(text.fields.t5, t5, parts.t5.vocabulary, parts.t5Tokenizer);
  const key = createHash("sha256")
    .update(`${model} ${clip.ids.join(",")} ${t5.ids.join(",")}`)
    .digest("hex");
  return {
    encoding: {
      key,
      runs: [
        encoderRun(parts.components.clip.name, clip, { pooled_output: POOLED_TEXT }),
        encoderRun(parts.components.t5.name, t5, { last_hidden_state: TEXT }),
      ],
    },
    advisories: [
      ...adviseOnCut("CLIP", text.fields.clip, parts.clipLength, clip),
      ...adviseOnCut("T5", text.fields.t5, length, t5),
    ],
  };
}

/** Some tokenizers can write special tokens that their encoder has no row for. */
function checkKnown(
  field: string,
  { ids }: TokenizedText,
  vocabulary: number,
  tokenizer: TextTokenizer,
): void {
  const unknown = ids.find((id) => id >= vocabulary);
  if (unknown === undefined) return;
  const description =
    `has ${JSON.stringify(tokenizer.token(unknown))}, token ${unknown}, ` +
    `but the text encoder knows only ${vocabulary} tokens; leave it out`;
  throw invalidArgument([{ field, description }]);
}

function encoderRun(graph: string, { ids }: TokenizedText, outputs: Record<string, string>) {
  return { graph, inputs: { input_ids: int64Tensor(ids, [1, ids.length]) }, outputs };
}

function adviseOnCut(
  encoder: "CLIP" | "T5",
  field: string,
  length: number,
  { cut }: TokenizedText,
): readonly Advisory[] {
  if (cut === undefined) return [];
  const letters = Array.from(cut);
  const quote =
    letters.length <= QUOTE_LETTERS_MAX
      ? cut
      : `${letters.slice(0, QUOTE_LETTERS_MAX).join("")}...`;
  const limit = encoder === "CLIP" ? `${length} tokens` : `max_sequence_length ${length} tokens`;
  const wayOut =
    encoder === "CLIP"
      ? "shorten it, or give prompt_2 the details and prompt a summary"
      : "shorten it or raise max_sequence_length";
  const message = `${encoder} reads ${limit} and leaves out "${quote}": ${wayOut}`;
  return [{ reason: `${encoder}_TEXT_CUT`, field, message }];
}
