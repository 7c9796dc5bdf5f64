/**
 * The `dev-like` checkpoint with a second text encoder so wide that its weights are most of what a
 * runner holds: for tests of what is loaded when.
 */
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Shapes, writeWeights } from "../bench/random-checkpoint.ts";
import { randomModel } from "./live-stack.ts";

/** Elements of the encoder's inner layers; 72 in the original. */
const INNER = 240_000;

export interface LargeEncoder {
  readonly folder: string;
  /** The file of the encoder's weights. */
  readonly file: string;
  readonly weightBytes: number;
}

/** Written into `folder`, which must not be there. */
export function largeEncoder(folder: string): LargeEncoder {
  cpSync(randomModel, folder, { recursive: true });
  const configFile = join(folder, "text_encoder_2/config.json");
  const config = JSON.parse(readFileSync(configFile, "utf8")) as { d_ff: number };
  const file = join(folder, "text_encoder_2/model.safetensors");
  const stored = readFileSync(file);
  const headerBytes = Number(stored.readBigUInt64LE(0));
  const header = JSON.parse(stored.toString("utf8", 8, 8 + headerBytes)) as Record<
    string,
    { shape: number[] }
  >;
  const { __metadata__: _, ...tensors } = header;
  const wide = (dim: number): number => (dim === config.d_ff ? INNER : dim);
  const shapes: Shapes = new Map(
    Object.entries(tensors).map(([name, { shape }]) => [name, shape.map(wide)]),
  );
  writeFileSync(configFile, JSON.stringify({ ...config, d_ff: INNER }));
  writeWeights(file, shapes, "F32");
  let weightBytes = 0;
  for (const shape of shapes.values()) weightBytes += 4 * shape.reduce((all, dim) => all * dim, 1);
  return { folder, file, weightBytes };
}
