import { AppError } from "@fluxline/kernel/error.ts";
import { describe, expect, test } from "vitest";
import { t5Tokenizer } from "./t5-tokenizer.ts";

const PIECES: [string, number][] = [
  ["<pad>", 0],
  ["</s>", 0],
  ["<unk>", 0],
  ["\u2581", -4],
  ["\u2581red", -2],
  ["\u2581circle", -3],
  ["\u2581re", -3],
  ["d", -3],
  ["s", -3],
  [",", -2],
];
const END = 1;
const UNKNOWN = 2;

function build(
  json: object = {},
  config: object = { model_max_length: 128, extra_ids: 2 },
): ReturnType<typeof t5Tokenizer> {
  const tokenizer = { added_tokens: [], model: { type: "Unigram", vocab: PIECES }, ...json };
  const texts = new Map([
    ["tokenizer_2/tokenizer.json", JSON.stringify(tokenizer)],
    ["tokenizer_2/tokenizer_config.json", JSON.stringify(config)],
  ]);
  return t5Tokenizer({ directory: "/models/m", texts }, "tokenizer_2");
}

describe("T5's tokenizer", () => {
  const t5 = build();
  const cases: Record<string, [text: string, ids: number[]]> = {
    nothing: ["", []],
    "words by their most likely pieces": ["red circles, red", [4, 5, 8, 9, 4]],
    "every kind of blank": ["  red\n\tcircle\u00a0red\u3000", [4, 5, 4]],
    "a byte order mark as a character, not as a blank": ["red\ufeffred", [4, UNKNOWN, 7]],
    "neighbouring unknown characters as one": ["red 狐狐", [4, 3, UNKNOWN]],
    "special tokens written out": ["red</s>red", [4, END, 4]],
    "sentinels beyond the vocabulary": ["<extra_id_1> red", [11, 4]],
  };
  for (const [name, [text, ids]] of Object.entries(cases)) {
    test(`reads ${name}`, () => {
      const padding = Array.from({ length: 12 - ids.length - 1 }, () => 0);
      expect(t5.encode(text, 12)).toEqual({ ids: [...ids, END, ...padding], cut: undefined });
    });
  }

  test("keeps the end token when it cuts, and says what it cut", () => {
    expect(t5.encode("red circles, red", 3)).toEqual({ ids: [4, 5, END], cut: "circles, red" });
    expect(t5.encode("red circle", 1)).toEqual({ ids: [END], cut: "red circle" });
  });

  test("knows the length that its makers meant", () => {
    expect(t5.lengthMax).toBe(128);
    expect(build({}, {}).lengthMax).toBeUndefined();
  });

  test("takes its end and padding from the settings", () => {
    const other = build({}, { eos_token: ",", pad_token: "s" });
    expect(other.encode("red", 4).ids).toEqual([4, 9, 8, 8]);
  });

  test("drops normalizers other than a character map, as transformers does", () => {
    const lower = build({ normalizer: { type: "Lowercase" } });
    expect(lower.encode("RED", 4)).toEqual(t5.encode("RED", 4));
  });
});

describe("refuses, by file and key,", () => {
  const file = "/models/m/tokenizer_2/tokenizer.json";
  const cases: Record<string, [json: object, field: string]> = {
    "a model of another kind": [{ model: { type: "BPE", vocab: {} } }, "model: type"],
    "no model": [{ model: null }, "model: type"],
    "a vocabulary that is no list": [{ model: { type: "Unigram", vocab: {} } }, "model: vocab"],
    "a piece without a score": [
      { model: { type: "Unigram", vocab: [...PIECES.slice(0, 3), ["x"]] } },
      "model: vocab: 3",
    ],
    "an added token without content": [{ added_tokens: [{ id: 3 }] }, "added_tokens: 0"],
    "a character map that is a number": [
      { normalizer: { type: "Precompiled", precompiled_charsmap: 7 } },
      "normalizer: precompiled_charsmap",
    ],
  };
  for (const [name, [json, field]] of Object.entries(cases)) {
    test(name, () => {
      expect(() => build(json)).toThrow(AppError);
      expect(() => build(json)).toThrow(`${file}: ${field}`);
    });
  }

  test("a folder without the file", () => {
    const files = { directory: "/models/m", texts: new Map() };
    expect(() => t5Tokenizer(files, "tokenizer_2")).toThrow(file);
  });
});
