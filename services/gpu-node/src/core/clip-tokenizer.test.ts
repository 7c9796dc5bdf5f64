import { AppError } from "@fluxline/kernel/error.ts";
import { describe, expect, test } from "vitest";
import { clipTokenizer } from "./clip-tokenizer.ts";

const VOCABULARY = {
  "!": 0,
  a: 1,
  "a</w>": 2,
  "b</w>": 3,
  c: 4,
  "ab</w>": 5,
  "cab</w>": 6,
  "1</w>": 7,
  ",</w>": 8,
  "'s</w>": 9,
  Ï: 10,
  "ĥ</w>": 11,
  "Ïĥ</w>": 12,
  "'": 13,
  "s</w>": 14,
  "<|startoftext|>": 15,
  "<|endoftext|>": 16,
};
const MERGES = "#version: 0.2\na b</w>\nc ab</w>\n' s</w>\nÏ ĥ</w>\n";
const START = 15;
const END = 16;

function build(changes: Record<string, string | undefined> = {}) {
  const texts = new Map<string, string>();
  const files: Record<string, string | undefined> = {
    "vocab.json": JSON.stringify(VOCABULARY),
    "merges.txt": MERGES,
    "tokenizer_config.json": JSON.stringify({ model_max_length: 77 }),
    ...changes,
  };
  for (const [name, text] of Object.entries(files)) {
    if (text !== undefined) texts.set(`tokenizer/${name}`, text);
  }
  return clipTokenizer({ directory: "/models/m", texts }, "tokenizer");
}

describe("CLIP's tokenizer", () => {
  const clip = build();
  const cases: Record<string, [text: string, ids: number[]]> = {
    nothing: ["", []],
    "a word by its merges": ["cab", [6]],
    "upper case as lower case": ["CaB", [6]],
    "words apart, however wide the blank": ["ab \t\n a", [5, 2]],
    "digits one by one": ["11", [7, 7]],
    "marks apart from words": ["ab,a", [5, 8, 2]],
    contractions: ["a's", [2, 9]],
    "what it does not know as the unknown token": ["z", [END]],
    "a capital sigma at the end of a word as the small one": ["Σ", [12]],
    "special tokens written out": ["a<|endoftext|>b", [2, END, 3]],
  };
  for (const [name, [text, ids]] of Object.entries(cases)) {
    test(`reads ${name}`, () => {
      const padding = Array.from({ length: 10 - ids.length - 1 }, () => END);
      expect(clip.encode(text, 10)).toEqual({ ids: [START, ...ids, ...padding], cut: undefined });
    });
  }

  test("keeps start and end when it cuts, and says what it cut", () => {
    expect(clip.encode("cab a  b 1, AB", 5)).toEqual({
      ids: [START, 6, 2, 3, END],
      cut: "1, AB",
    });
    expect(clip.encode("a ".repeat(500), 5).cut).toBe("a ".repeat(497).trim());
    expect(clip.encode("111111", 5).cut).toBe("111111");
  });

  test("fills exactly without cutting", () => {
    expect(clip.encode("cab a b", 5)).toEqual({ ids: [START, 6, 2, 3, END], cut: undefined });
  });

  test("pads with the token of special_tokens_map.json", () => {
    const padded = build({ "special_tokens_map.json": '{"pad_token": {"content": "!"}}' });
    expect(padded.encode("a", 5).ids).toEqual([START, 2, END, 0, 0]);
  });

  test("ignores special_tokens_map.json beside added_tokens_decoder, as transformers does", () => {
    const config = JSON.stringify({
      added_tokens_decoder: { "16": { content: "<|endoftext|>", special: true } },
    });
    const padded = build({
      "tokenizer_config.json": config,
      "special_tokens_map.json": '{"pad_token": "!"}',
    });
    expect(padded.encode("a", 4).ids).toEqual([START, 2, END, END]);
    expect(padded.lengthMax).toBeUndefined();
  });

  test("is made from a tokenizer.json too", () => {
    const merges = MERGES.trim().split("\n").slice(1);
    const model = { type: "BPE", vocab: VOCABULARY, merges };
    const pairs = { ...model, merges: merges.map((merge) => merge.split(" ")) };
    for (const written of [model, pairs]) {
      const json = JSON.stringify({ model: written, added_tokens: [] });
      const changes = { "vocab.json": undefined, "merges.txt": undefined, "tokenizer.json": json };
      expect(build(changes).encode("cab a's", 6)).toEqual(clip.encode("cab a's", 6));
    }
  });

  test("knows the length that its makers meant", () => {
    expect(clip.lengthMax).toBe(77);
    const limitless = build({ "tokenizer_config.json": '{"model_max_length": 1e30}' });
    expect(limitless.lengthMax).toBeUndefined();
  });
});

describe("refuses, by file and key,", () => {
  const place = "/models/m/tokenizer/";
  const cases: Record<string, [changes: Record<string, string | undefined>, field: string]> = {
    "no vocabulary": [{ "vocab.json": undefined }, "vocab.json"],
    "no merges": [{ "merges.txt": undefined }, "merges.txt"],
    "a vocabulary that is not JSON": [{ "vocab.json": "{" }, "vocab.json"],
    "an id that is text": [{ "vocab.json": '{"a": "1"}' }, "vocab.json: a"],
    "a merge of three pieces": [{ "merges.txt": "a b c" }, "merges.txt"],
    "a tokenizer.json of another kind": [
      { "tokenizer.json": '{"model": {"type": "Unigram"}}' },
      "tokenizer.json: model: type",
    ],
    "a tokenizer.json without merges": [
      { "tokenizer.json": '{"model": {"type": "BPE", "vocab": {}}}' },
      "tokenizer.json: model: merges",
    ],
    "a special token that is a number": [
      { "tokenizer_config.json": '{"pad_token": 7}' },
      "tokenizer_config.json: pad_token",
    ],
    "a length that is text": [
      { "tokenizer_config.json": '{"model_max_length": "77"}' },
      "tokenizer_config.json: model_max_length",
    ],
  };
  for (const [name, [changes, field]] of Object.entries(cases)) {
    test(name, () => {
      expect(() => build(changes)).toThrow(AppError);
      expect(() => build(changes)).toThrow(place + field);
    });
  }
});
