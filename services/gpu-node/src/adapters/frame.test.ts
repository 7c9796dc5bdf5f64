import { describe, expect, test } from "vitest";
import { AppError } from "@fluxline/kernel/error.ts";
import { Random } from "@fluxline/kernel/random.ts";
import { type Frame, frameChunks, FrameReader, PREFIX_BYTES } from "./frame.ts";

const limits = { headerBytesMax: 1024, payloadBytesMax: 64 * 1024 };

/** Reads a stream in pieces of at most `pieceBytesMax`, drawn at random. */
function read(stream: Buffer, pieceBytesMax: number, random: Random): Frame[] {
  const frames: Frame[] = [];
  const reader = new FrameReader({ limits, onFrame: (frame) => frames.push(frame) });
  for (let at = 0; at < stream.length;) {
    const bytes = 1 + random.below(pieceBytesMax);
    reader.push(stream.subarray(at, at + bytes));
    at += bytes;
  }
  return frames;
}

function reasonOf(stream: Buffer): string | undefined {
  try {
    read(stream, stream.length, new Random(1));
    return undefined;
  } catch (thrown) {
    if (thrown instanceof AppError) return thrown.reason;
    throw thrown;
  }
}

const bytes = (...values: number[]) => Uint8Array.from(values);
const frame = (header: unknown, parts: Uint8Array[] = [], payloadChecksum = false): Buffer =>
  Buffer.concat(frameChunks(header, parts, { payloadChecksum }));

describe("frames", () => {
  test.each([1, 7, 100_000])("come out as they went in, in pieces of up to %i bytes", (piece) => {
    const large = Uint8Array.from({ length: 40_001 }, (_, index) => index % 251);
    const stream = Buffer.concat([
      frame({ name: "one" }, [bytes(1, 2, 3), bytes(4)]),
      frame(undefined),
      frame({ name: "large" }, [large], true),
      frame(undefined, [bytes(9)]),
    ]);
    const frames = read(stream, piece, new Random(piece));
    expect(frames.map(({ header }) => header)).toEqual([
      { name: "one" },
      undefined,
      { name: "large" },
      undefined,
    ]);
    expect([...frames[0]!.payload]).toEqual([1, 2, 3, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    expect(Buffer.compare(frames[2]!.payload.subarray(0, large.length), large)).toBe(0);
    expect(frames.map(({ payload }) => payload.byteOffset)).toEqual([0, 0, 0, 0]);
  });

  const valid = frame({ name: "one" }, [bytes(1, 2, 3)], true);
  const changed = (at: number): Buffer => {
    const copy = Buffer.from(valid);
    copy.writeUInt8(copy.readUInt8(at) ^ 1, at);
    return copy;
  };
  test.each([
    [
      "of another protocol",
      Buffer.from("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"),
      "FRAME_MAGIC",
    ],
    ["of another version", changed(4), "FRAME_VERSION"],
    ["with a changed length", changed(8), "FRAME_CORRUPT"],
    ["with a changed header", changed(PREFIX_BYTES + 3), "FRAME_CORRUPT"],
    ["with a changed payload", changed(valid.length - 7), "FRAME_CORRUPT"],
    ["with a header above the limit", frame("x".repeat(2000)), "FRAME_TOO_LARGE"],
    ["with a payload above the limit", frame({}, [new Uint8Array(65 * 1024)]), "FRAME_TOO_LARGE"],
  ])("%s are refused", (_, stream, reason) => {
    expect(reasonOf(stream)).toBe(reason);
  });

  test("that are too long are refused before their payload has come", () => {
    const begun = frame({}, [new Uint8Array(65 * 1024)]).subarray(0, PREFIX_BYTES);
    expect(reasonOf(begun)).toBe("FRAME_TOO_LARGE");
  });

  test("that are incomplete can be told from none", () => {
    const reader = new FrameReader({ limits, onFrame: () => undefined });
    expect(reader.isInFrame).toBe(false);
    reader.push(valid.subarray(0, valid.length - 1));
    expect(reader.isInFrame).toBe(true);
    reader.push(valid.subarray(valid.length - 1));
    expect(reader.isInFrame).toBe(false);
  });

  test("may be taken over by another sink in the middle of a piece", () => {
    const second: unknown[] = [];
    const reader = new FrameReader({
      limits,
      onFrame: () => {
        reader.sink = { limits, onFrame: ({ header }) => second.push(header) };
      },
    });
    reader.push(Buffer.concat([frame({ at: 1 }), frame({ at: 2 }), frame({ at: 3 })]));
    expect(second).toEqual([{ at: 2 }, { at: 3 }]);
  });
});
