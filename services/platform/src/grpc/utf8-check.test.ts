import type { DescMessage } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { CreateImageJobRequest } from "@fluxline/proto/fluxline/v1/image_service.ts";
import { readRegistry } from "./descriptor.ts";
import { findInvalidUtf8 } from "./utf8-check.ts";

const registry = readRegistry();
const message = registry.getMessage("fluxline.v1.CreateImageJobRequest");

/** A request in which every "\u00e9" has lost its second byte. */
function broken(request: object): Buffer {
  const bytes = Buffer.from(
    CreateImageJobRequest.encode(CreateImageJobRequest.fromPartial(request)).finish(),
  );
  for (let at = bytes.indexOf("\u00e9"); at >= 0; at = bytes.indexOf("\u00e9")) {
    bytes.writeUInt8(0xff, at);
  }
  return bytes;
}

describe("invalid UTF-8", () => {
  test.each<[string, object, string[]]>([
    ["nothing wrong", { spec: { prompt: "a red cube \u{1f9ca}" }, requestId: "x" }, []],
    ["at the top", { requestId: "caf\u00e9" }, ["request_id"]],
    ["nested", { spec: { prompt: "caf\u00e9" } }, ["spec.prompt"]],
    [
      "several, each once",
      { pool: "\u00e9", spec: { negativePrompt: "\u00e9", endUserId: "\u00e9" } },
      ["pool", "spec.negative_prompt", "spec.end_user_id"],
    ],
    [
      "in a list of messages, and in a list of strings",
      {
        spec: {
          inputImages: [{ source: { $case: "uri", value: "\u00e9" } }],
          webhook: {
            events: ["ok", "\u00e9"],
          },
        },
      },
      ["spec.input_images.uri", "spec.webhook.events"],
    ],
    [
      "not in bytes, which may hold anything",
      { spec: { inputImages: [{ source: { $case: "content", value: Buffer.of(0xff) } }] } },
      [],
    ],
  ])("%s", (_, request, paths) => {
    if (!message) return expect.unreachable("no description");
    expect(findInvalidUtf8(message, broken(request))).toEqual(paths);
  });

  test("bytes that end too early are not walked past their end", () => {
    if (!message) return expect.unreachable("no description");
    expect(() => findInvalidUtf8(message, Buffer.from([0x12, 0x7f, 0x01]))).toThrow();
  });

  test("no request has a map, whose strings would not be looked at", () => {
    const maps: string[] = [];
    const seen = new Set<string>();
    const look = (each: DescMessage): void => {
      if (seen.has(each.typeName)) return;
      seen.add(each.typeName);
      for (const field of each.fields) {
        if (field.fieldKind === "map") maps.push(`${each.typeName}.${field.name}`);
        if (field.message) look(field.message);
      }
    };
    for (const method of registry.getService("fluxline.v1.ImageService")?.methods ?? []) {
      look(method.input);
    }
    expect(seen.size).toBeGreaterThan(9);
    expect(maps).toEqual([]);
  });
});
