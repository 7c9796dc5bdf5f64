/**
 * What describes a FLUX.1 checkpoint: the geometry of its networks, its tokenizers, its schedule;
 * and whether they fit together. Parts that contradict each other are refused here, by file and
 * key, rather than by a runtime in the middle of a request.
 */
import {
  type Checkpoint,
  component,
  type Component,
  configFile,
  MODEL_INDEX,
  pipelineClass,
} from "../core/checkpoint.ts";
import { clipTokenizer } from "../core/clip-tokenizer.ts";
import { PATCH } from "../core/latents.ts";
import { readScheduleRule, type ScheduleRule } from "../core/sigmas.ts";
import { t5Tokenizer } from "../core/t5-tokenizer.ts";
import type { TextTokenizer } from "../core/text-tokenizer.ts";
import { type ClipTextConfig, readClipTextConfig } from "./clip-text.ts";
import { type FluxTransformerConfig, readFluxTransformerConfig } from "./flux-transformer.ts";
import { readT5EncoderConfig, type T5EncoderConfig } from "./t5-encoder.ts";
import { readVaeConfig, type VaeConfig } from "./vae.ts";

/** Classes in model_index.json that this family runs. */
export const FLUX1_PIPELINES = ["FluxPipeline"] as const;

const CLIP_LENGTH = 77;
const IMAGE_CHANNELS = 3;

export interface Flux1Components {
  readonly transformer: Component;
  readonly clip: Component;
  readonly t5: Component;
  readonly vae: Component;
}

export interface Flux1Parts {
  readonly components: Flux1Components;
  readonly transformer: FluxTransformerConfig;
  readonly clip: ClipTextConfig;
  readonly t5: T5EncoderConfig;
  readonly vae: VaeConfig;
  readonly schedule: ScheduleRule;
  readonly clipTokenizer: TextTokenizer;
  /** Tokens that CLIP is always given. */
  readonly clipLength: number;
  readonly t5Tokenizer: TextTokenizer;
}

/** @throws AppError naming what is missing */
export function flux1Components(checkpoint: Checkpoint): Flux1Components {
  pipelineClass(configFile(checkpoint, MODEL_INDEX), FLUX1_PIPELINES);
  return {
    transformer: component(checkpoint, "transformer"),
    clip: component(checkpoint, "text_encoder"),
    t5: component(checkpoint, "text_encoder_2"),
    vae: component(checkpoint, "vae"),
  };
}

/** @throws AppError naming file, key and value */
export function readFlux1Parts(checkpoint: Checkpoint): Flux1Parts {
  const components = flux1Components(checkpoint);
  const clip = readClipTextConfig(components.clip);
  const words = clipTokenizer(checkpoint, "tokenizer");
  const parts: Flux1Parts = {
    components,
    clip,
    transformer: readFluxTransformerConfig(components.transformer),
    t5: readT5EncoderConfig(components.t5),
    vae: readVaeConfig(components.vae),
    schedule: readScheduleRule(configFile(checkpoint, "scheduler/scheduler_config.json")),
    clipTokenizer: words,
    clipLength: words.lengthMax ?? Math.min(CLIP_LENGTH, clip.positions),
    t5Tokenizer: t5Tokenizer(checkpoint, "tokenizer_2"),
  };
  checkChannels(parts);
  checkText(parts);
  return parts;
}

function checkChannels({ components, transformer, vae }: Flux1Parts): void {
  const { config } = components.transformer;
  const packed = vae.latentChannels * PATCH * PATCH;
  if (transformer.outChannels !== packed) {
    const found = `out_channels is ${transformer.outChannels}, as in_channels unless said`;
    const rule = `${PATCH * PATCH} times latent_channels of vae/config.json is ${packed}`;
    throw config.error("out_channels", `${found}; it must be ${packed}: ${rule}`);
  }
  if (transformer.inChannels !== packed) {
    const why = "this model also needs a picture as input, which is not supported yet";
    throw config.error("in_channels", `is ${transformer.inChannels}, not ${packed}: ${why}`);
  }
  if (vae.imageChannels.out !== IMAGE_CHANNELS) {
    const description = `is ${vae.imageChannels.out}; only pictures of ${IMAGE_CHANNELS} channels`;
    throw components.vae.config.error("out_channels", `${description} (RGB) are supported`);
  }
}

function checkText({ components, transformer, clip, t5, ...parts }: Flux1Parts): void {
  const { config } = components.transformer;
  if (transformer.textWidth !== t5.width) {
    const rule = `must equal d_model of text_encoder_2/config.json, ${t5.width}`;
    throw config.error("joint_attention_dim", `is ${transformer.textWidth}; it ${rule}`);
  }
  if (transformer.pooledWidth !== clip.width) {
    const rule = `must equal hidden_size of text_encoder/config.json, ${clip.width}`;
    throw config.error("pooled_projection_dim", `is ${transformer.pooledWidth}; it ${rule}`);
  }
  if (parts.clipLength > clip.positions) {
    const rule = `must be at least the tokenizer's model_max_length, ${parts.clipLength}`;
    throw components.clip.config.error(
      "max_position_embeddings",
      `is ${clip.positions}; it ${rule}`,
    );
  }
  checkVocabulary(components.clip, clip.vocabulary, parts.clipTokenizer, "tokenizer");
  checkVocabulary(components.t5, t5.vocabulary, parts.t5Tokenizer, "tokenizer_2");
}

function checkVocabulary(
  part: Component,
  vocabulary: number,
  { fixedIdMax }: TextTokenizer,
  folder: string,
): void {
  if (fixedIdMax < vocabulary) return;
  const rule = `must be above the ids of the special tokens of ${folder}, up to ${fixedIdMax}`;
  throw part.config.error("vocab_size", `is ${vocabulary}; it ${rule}`);
}
