/** The layout of a quantised file: known before it exists, and readable by any safetensors reader. */
import { describe, expect, test } from "vitest";
import {
  QUANTISED_DATA_START,
  QuantisedFileLayout,
  quantisedHeader,
  readQuantisedChecksum,
} from "./quantised-file.ts";
import { headerLength, LENGTH_PREFIX_BYTES, parseHeader } from "./safetensors.ts";

const PLACE = { folder: "/cache/quantised", model: "c0ffee" };
const CHECKSUM = 0xabcdef01;

const source = (name: string, shape: readonly number[]) => ({
  name,
  shape,
  dtype: "BF16" as const,
  file: "/models/x/model.safetensors",
  offset: 512,
  length: 2 * shape.reduce((product, dim) => product * dim, 1),
});

function twoWeights() {
  const layout = new QuantisedFileLayout(PLACE, "transformer.double.3");
  const wide = layout.add(source("wide.weight", [5, 200]), 5, 200);
  const narrow = layout.add(source("narrow.weight", [7, 64]), 7, 64);
  return { layout, wide, narrow };
}

test("weights lie one behind another in the order in which they were asked for", () => {
  const { layout, wide, narrow } = twoWeights();
  expect(layout.path).toBe(
    "/cache/quantised/c0ffee/transformer.double.3.int8-block128-1.safetensors",
  );
  expect(wide).toMatchObject({ codesOffset: 16_384, scalesOffset: 16_384 + 5 * 256 });
  const second = wide.scalesOffset + 5 * 2 * 4;
  expect(narrow).toMatchObject({ codesOffset: second, scalesOffset: second + 7 * 128 });
  expect(layout.finish().bytes).toBe(narrow.scalesOffset + 7 * 4);
});

test("a weight that is asked for twice lies there once", () => {
  const { layout, wide } = twoWeights();
  expect(layout.add(wide.source, 5, 200)).toBe(wide);
  expect(layout.finish().tensors).toHaveLength(2);
});

test("its header is one of the safetensors format and says where everything is", () => {
  const { layout, narrow } = twoWeights();
  const file = layout.finish();
  const header = quantisedHeader(file, CHECKSUM);
  expect(header).toHaveLength(QUANTISED_DATA_START);
  const length = headerLength(file.file, file.bytes, header.subarray(0, LENGTH_PREFIX_BYTES));
  expect(LENGTH_PREFIX_BYTES + length).toBe(QUANTISED_DATA_START);
  const read = parseHeader(file.file, file.bytes, header.subarray(LENGTH_PREFIX_BYTES));
  expect(read.get("narrow.weight.scales")).toMatchObject({
    dtype: "F32",
    shape: [7, 1],
    offset: narrow.scalesOffset,
  });
  expect(read.get("wide.weight.codes")).toMatchObject({ dtype: "U8", shape: [5, 2, 128] });
});

describe("a header's checksum", () => {
  const file = twoWeights().layout.finish();
  test("is read from the expected header", () => {
    expect(readQuantisedChecksum(file, quantisedHeader(file, CHECKSUM))).toBe(CHECKSUM);
  });

  test.each([
    ["of another model", quantisedHeader({ ...file, model: "decade" }, CHECKSUM)],
    ["of other weights", quantisedHeader({ ...file, tensors: file.tensors.slice(1) }, CHECKSUM)],
    ["of zeros", new Uint8Array(QUANTISED_DATA_START)],
  ])("is not believed in a header %s", (_, header) => {
    expect(readQuantisedChecksum(file, header)).toBeUndefined();
  });
});
