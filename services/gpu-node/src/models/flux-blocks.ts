/**
 * The two kinds of blocks of a FLUX transformer. In a double block image and text have weights of
 * their own and meet in one attention; in a single block they are one sequence, and attention and
 * feed-forward layer work side by side.
 */
import { FEED_FORWARD_RATIO } from "./flux-config.ts";
import { HALF_BLOCK, WHOLE_BLOCK, type FluxLayers, type Stream } from "./flux-layers.ts";

/** Names of the weights of one stream of a double block. */
interface StreamWeights {
  readonly query: string;
  readonly key: string;
  readonly value: string;
  readonly queryNorm: string;
  readonly keyNorm: string;
  readonly out: string;
  readonly modulation: string;
  readonly feedForward: string;
}

const IMAGE: StreamWeights = {
  query: "attn.to_q",
  key: "attn.to_k",
  value: "attn.to_v",
  queryNorm: "attn.norm_q.weight",
  keyNorm: "attn.norm_k.weight",
  out: "attn.to_out.0",
  modulation: "norm1.linear",
  feedForward: "ff",
};

const TEXT: StreamWeights = {
  query: "attn.add_q_proj",
  key: "attn.add_k_proj",
  value: "attn.add_v_proj",
  queryNorm: "attn.norm_added_q.weight",
  keyNorm: "attn.norm_added_k.weight",
  out: "attn.to_add_out",
  modulation: "norm1_context.linear",
  feedForward: "ff_context",
};

/** @returns the image stream and the text stream after the block */
export function doubleBlock(
  layers: FluxLayers,
  index: number,
  img: Stream,
  txt: Stream,
  active: string,
): [Stream, Stream] {
  const { build } = layers.network;
  const at = `double.${index}`;
  const image = new HalfDoubleBlock(layers, `${at}.img`, index, IMAGE, img, active);
  const text = new HalfDoubleBlock(layers, `${at}.txt`, index, TEXT, txt, active);

  const joined = (part: "q" | "k" | "v"): string =>
    build.node(`${at}.${part}`, "Concat", [text[part], image[part]], { axis: { int: 1 } });
  const query = layers.rotate(`${at}.q.rotated`, joined("q"));
  const key = layers.rotate(`${at}.k.rotated`, joined("k"));
  const mixed = layers.attend(`${at}.attn`, query, key, joined("v"));

  const sized = { start: { int: 1 }, end: { int: 2 } };
  const length = build.node(`${at}.txt.length`, "Shape", [txt.value], sized);
  const [zero, one, rest] = [build.ints(0), build.ints(1), build.ints(Number.MAX_SAFE_INTEGER)];
  const forText = build.node(`${at}.txt.mixed`, "Slice", [mixed, zero, length, one]);
  const forImage = build.node(`${at}.img.mixed`, "Slice", [mixed, length, rest, one]);
  const textOut = layers.network.clipped(`${at}.txt.clip`, text.finish(forText));
  return [
    { ...img, value: image.finish(forImage) },
    { ...txt, value: textOut },
  ];
}

/** One stream's share of a double block: what goes into the attention, and what follows it. */
class HalfDoubleBlock {
  readonly q: string;
  readonly k: string;
  readonly v: string;
  readonly #layers: FluxLayers;
  readonly #at: string;
  readonly #prefix: string;
  readonly #weights: StreamWeights;
  readonly #stream: Stream;
  readonly #modulation: Record<(typeof WHOLE_BLOCK)[number], string>;

  constructor(
    layers: FluxLayers,
    at: string,
    index: number,
    weights: StreamWeights,
    stream: Stream,
    active: string,
  ) {
    this.#layers = layers;
    this.#at = at;
    this.#prefix = `transformer_blocks.${index}`;
    this.#weights = weights;
    this.#stream = stream;
    const modulation = this.#named(weights.modulation);
    this.#modulation = layers.modulation(`${at}.mod`, active, modulation, WHOLE_BLOCK);
    const { attn_scale: scale, attn_shift: shift } = this.#modulation;
    const normed = layers.modulatedNorm(`${at}.attn.norm`, stream.value, scale, shift);
    const project = (part: string, weight: string) =>
      layers.project(`${at}.attn.${part}`, normed, this.#named(weight), stream.rows);
    const headNorm = (part: string, value: string, weight: string) =>
      layers.headNorm(`${at}.attn.${part}.norm`, value, this.#named(weight));
    this.q = headNorm("q", project("q", weights.query), weights.queryNorm);
    this.k = headNorm("k", project("k", weights.key), weights.keyNorm);
    this.v = project("v", weights.value);
  }

  /** The stream after its part of the attention and its feed-forward layer. */
  finish(mixed: string): string {
    const layers = this.#layers;
    const at = this.#at;
    const mod = this.#modulation;
    const { rows, value } = this.#stream;
    const projected = layers.project(`${at}.attn.out`, mixed, this.#named(this.#weights.out), rows);
    const attended = layers.gatedSum(`${at}.attn.sum`, value, mod.attn_gate, projected);
    const normed = layers.modulatedNorm(`${at}.mlp.norm`, attended, mod.mlp_scale, mod.mlp_shift);
    const mlp = this.#named(this.#weights.feedForward);
    const wide = layers.widen(`${at}.mlp.act`, normed, `${mlp}.net.0.proj`, rows);
    const { width } = layers.config;
    const down = { inputs: FEED_FORWARD_RATIO * width, outputs: width, rows };
    const narrow = layers.network.linear(`${at}.mlp.out`, wide, `${mlp}.net.2`, down);
    return layers.gatedSum(`${at}.mlp.sum`, attended, mod.mlp_gate, narrow);
  }

  #named(weight: string): string {
    return `${this.#prefix}.${weight}`;
  }
}

export function singleBlock(layers: FluxLayers, index: number, x: Stream, active: string): Stream {
  const { network, config } = layers;
  const { rows } = x;
  const at = `single.${index}`;
  const prefix = `single_transformer_blocks.${index}`;
  const mod = layers.modulation(`${at}.mod`, active, `${prefix}.norm.linear`, HALF_BLOCK);
  const normed = layers.modulatedNorm(`${at}.norm`, x.value, mod.scale, mod.shift);
  const wide = layers.widen(`${at}.mlp.act`, normed, `${prefix}.proj_mlp`, rows);
  const project = (part: string) =>
    layers.project(`${at}.attn.${part}`, normed, `${prefix}.attn.to_${part}`, rows);
  const headNorm = (part: string) =>
    layers.headNorm(`${at}.attn.${part}.norm`, project(part), `${prefix}.attn.norm_${part}.weight`);
  const query = layers.rotate(`${at}.attn.q.rotated`, headNorm("q"));
  const key = layers.rotate(`${at}.attn.k.rotated`, headNorm("k"));
  const mixed = layers.attend(`${at}.attn`, query, key, project("v"));
  const both = network.build.node(`${at}.both`, "Concat", [mixed, wide], { axis: { int: -1 } });
  const inputs = (1 + FEED_FORWARD_RATIO) * config.width;
  const shape = { inputs, outputs: config.width, rows };
  const out = network.linear(`${at}.out`, both, `${prefix}.proj_out`, shape);
  const sum = layers.gatedSum(`${at}.sum`, x.value, mod.gate, out);
  return { value: network.clipped(`${at}.clip`, sum), rows };
}
