/** What `fluxline model inspect` shows of the GPU node's answer. */
import { byteText, countText } from "./byte-text.ts";
import { textTable } from "./text-table.ts";

/** As the GPU node's program prints it. */
export interface ModelReport {
  readonly name: string;
  readonly family: string;
  readonly digest: string;
  readonly guidanceEmbedded: boolean;
  readonly parts: readonly {
    readonly name: string;
    readonly files: number;
    readonly tensors: number;
    readonly parameters: number;
    readonly bytes: number;
    readonly types: readonly string[];
    readonly float32Bytes: number;
  }[];
  readonly request: {
    readonly width: number;
    readonly height: number;
    readonly steps: number;
    readonly imageTokens: number;
    readonly textTokens: number;
    readonly passes: number;
    readonly stepOperations: number;
    readonly latentBytes: number;
    readonly operations: number;
  };
}

export function describeModel(model: ModelReport): string {
  const { request, parts } = model;
  const sum = (pick: (part: ModelReport["parts"][number]) => number) =>
    parts.reduce((total, part) => total + pick(part), 0);
  const rows = parts.map((part) => [
    part.name,
    countText(part.parameters),
    String(part.tensors),
    part.types.join(", "),
    `${byteText(part.bytes)} in ${part.files} ${part.files === 1 ? "file" : "files"}`,
    byteText(part.float32Bytes),
  ]);
  rows.push([
    "all",
    countText(sum((part) => part.parameters)),
    String(sum((part) => part.tensors)),
    "",
    byteText(sum((part) => part.bytes)),
    byteText(sum((part) => part.float32Bytes)),
  ]);
  const { width, height, steps, imageTokens, textTokens } = request;
  return [
    `model      ${model.name}, family ${model.family}`,
    `digest     ${model.digest}`,
    `guidance   ${model.guidanceEmbedded ? "embedded" : "none embedded: guidance is ignored"}`,
    "",
    textTable(["part", "parameters", "tensors", "stored as", "on disk", "in float32"], rows),
    "",
    `a request of ${width}x${height} with ${steps} steps`,
    `  tokens     ${imageTokens} of the image, ${textTokens} of the text`,
    `  one step   ${countText(request.stepOperations)} operations, ${request.passes} pass(es)`,
    `  all steps  ${countText(request.operations)} operations`,
    `  state      ${byteText(request.latentBytes)} between two steps`,
  ].join("\n");
}
