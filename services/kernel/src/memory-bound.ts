/**
 * How much memory a request needs on each device of a replica group, and whether that is there: the
 * figures of the stage planner in a form that the scheduler can reckon with, also while a pool has
 * no group. Linear, because every network of a step works token by token or pixel by pixel:
 *
 *   need = fixed
 *        + rows * (rowPixel * pixels + rowTextToken * text tokens)      a step of so many rows
 *        + decodePixel * min(pixels, decodePixelsMax)                   one picture decoded
 *        + encodeTextToken * text tokens                                one text encoded
 *
 * The parts add up because a runtime keeps what each of its graphs has once needed.
 */
export interface MemoryBound {
  /** For people: `rank 0`, `cpu`. */
  readonly device: string;
  readonly availableBytes: number;
  /** Weights, the runtime itself, whatever is there before any request. */
  readonly fixedBytes: number;
  readonly rowBytesPerPixel: number;
  readonly rowBytesPerTextToken: number;
  readonly decodeBytesPerPixel: number;
  /** Pixels decoded at a time: those of a tile. 0: the whole picture, whatever its size. */
  readonly decodePixelsMax: number;
  readonly encodeBytesPerTextToken: number;
}

/** What a request asks of a device. */
export interface MemoryDemand {
  readonly pixels: number;
  readonly textTokens: number;
  /** Rows of one step: 2 for an image with true classifier-free guidance. */
  readonly rows: number;
}

/** Bytes that the device holds while it serves the demand. */
export function memoryNeed(bound: MemoryBound, { pixels, textTokens, rows }: MemoryDemand): number {
  const { decodePixelsMax } = bound;
  const decoded = decodePixelsMax === 0 ? pixels : Math.min(pixels, decodePixelsMax);
  return (
    bound.fixedBytes +
    rows * (bound.rowBytesPerPixel * pixels + bound.rowBytesPerTextToken * textTokens) +
    bound.decodeBytesPerPixel * decoded +
    bound.encodeBytesPerTextToken * textTokens
  );
}
