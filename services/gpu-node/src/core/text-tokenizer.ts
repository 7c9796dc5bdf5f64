/**
 * Text to the token ids of one text encoder: always `length` of them, cut or padded, with the
 * special tokens in their places. What both tokenizers of FLUX share; how text falls into pieces is
 * theirs (clip-tokenizer.ts, t5-tokenizer.ts). Pure: made from the contents of files.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { Tokenizer } from "@huggingface/tokenizers";
import type { Checkpoint } from "./checkpoint.ts";
import { checkpointError, missingFileError, shown } from "./checkpoint-error.ts";
import { isJsonObject, JsonConfig } from "./json-config.ts";

/** The part of a checkpoint that holds tokenizers. */
export type TokenizerFiles = Pick<Checkpoint, "directory" | "texts">;

export interface TokenizedText {
  readonly ids: readonly number[];
  /** The end of the text, from the first word that did not fit; absent when all of it did. */
  readonly cut: string | undefined;
}

export interface TextTokenizerParts {
  readonly pieces: Tokenizer;
  /** Applied to the text before it falls into pieces. */
  readonly prepare: (text: string) => string;
  /** Ids before and after the text, and the id that fills up. */
  readonly before: readonly number[];
  readonly after: readonly number[];
  readonly padding: number;
  /** `model_max_length`: what the tokenizer's makers meant; undefined when they set no limit. */
  readonly lengthMax: number | undefined;
}

export class TextTokenizer {
  readonly lengthMax: number | undefined;
  readonly #parts: TextTokenizerParts;

  constructor(parts: TextTokenizerParts) {
    this.#parts = parts;
    this.lengthMax = parts.lengthMax;
  }

  /** The highest of the ids that come out whatever the text is. */
  get fixedIdMax(): number {
    const { before, after, padding } = this.#parts;
    return Math.max(padding, ...before, ...after);
  }

  encode(text: string, length: number): TokenizedText {
    const { before, after, padding } = this.#parts;
    const room = length - before.length - after.length;
    assert(room >= 0, `no room for text in ${length} tokens`);
    const all = this.#textIds(text);
    const kept = [...before, ...all.slice(0, room), ...after];
    const ids = Array.from({ length }, (_, i) => kept[i] ?? padding);
    return { ids, cut: all.length <= room ? undefined : this.#cut(text, room) };
  }

  /** How a token is written. */
  token(id: number): string {
    return this.#parts.pieces.id_to_token(id) ?? `token ${id}`;
  }

  #textIds(text: string): readonly number[] {
    const { pieces, prepare } = this.#parts;
    return pieces.encode(prepare(text), { add_special_tokens: false }).ids;
  }

  /** Found by bisection over the places where a word ends; `text` has more than `room` tokens. */
  #cut(text: string, room: number): string {
    const ends = [0];
    for (const { index, segment } of WORDS.segment(text)) ends.push(index + segment.length);
    let [fits, tooLong] = [0, Math.min(Math.max(1, room), ends.length - 1)];
    const isTooLong = (word: number): boolean =>
      this.#textIds(text.slice(0, ends[word])).length > room;
    while (tooLong < ends.length - 1 && !isTooLong(tooLong)) {
      fits = tooLong;
      tooLong = Math.min(2 * tooLong, ends.length - 1);
    }
    while (tooLong - fits > 1) {
      const middle = Math.floor((fits + tooLong) / 2);
      if (isTooLong(middle)) tooLong = middle;
      else fits = middle;
    }
    return text.slice(ends[fits]).trim();
  }
}

/** Also parts text that has no blanks, such as Chinese. */
const WORDS = new Intl.Segmenter("en", { granularity: "word" });

/** A token outside the ordinary vocabulary, with the flags of the files. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
}

const LIMITLESS_LENGTH = 1_000_000;

/**
 * What a tokenizer's small files say beside the vocabulary. As in transformers, the older
 * special_tokens_map.json counts only where tokenizer_config.json lists no added tokens.
 */
export class TokenizerSettings {
  readonly #config: JsonConfig;
  readonly #older: JsonConfig | undefined;

  constructor(files: TokenizerFiles, folder: string) {
    this.#config = optionalJson(files, `${folder}/tokenizer_config.json`) ?? new JsonConfig("", {});
    this.#older = this.#config.has("added_tokens_decoder")
      ? undefined
      : optionalJson(files, `${folder}/special_tokens_map.json`);
  }

  get lengthMax(): number | undefined {
    if (!this.#config.has("model_max_length")) return undefined;
    const length = this.#config.number("model_max_length", { min: 1 });
    return length >= LIMITLESS_LENGTH ? undefined : length;
  }

  /** Content of `bos_token` and its kind: a string, or an object with `content`. */
  special(key: string, fallback: string): string {
    for (const config of [this.#older, this.#config]) {
      if (config === undefined || !config.has(key)) continue;
      const value = config.value(key);
      const content = isJsonObject(value) ? value["content"] : value;
      if (typeof content === "string") return content;
      throw config.error(key, `is ${shown(value)}; it must be a token`);
    }
    return fallback;
  }

  strings(key: string): readonly string[] {
    const value = this.#older?.value(key) ?? this.#config.value(key);
    if (!Array.isArray(value)) return [];
    return value.map((item) => String(isJsonObject(item) ? item["content"] : item));
  }

  integer(key: string, fallback: number): number {
    return this.#config.integer(key, { min: 0, fallback });
  }

  /** `added_tokens_decoder`, in the order of its ids. */
  addedTokens(): readonly AddedToken[] {
    const listed = this.#config.value("added_tokens_decoder");
    if (!isJsonObject(listed)) return [];
    const tokens = Object.entries(listed).map(([id, value]) =>
      readAddedToken(`${this.#config.file}: added_tokens_decoder: ${id}`, Number(id), value),
    );
    return tokens.sort((a, b) => a.id - b.id);
  }
}

/** `added_tokens` of a tokenizer.json. */
export function jsonAddedTokens(json: JsonConfig): readonly AddedToken[] {
  const listed = json.value("added_tokens");
  if (!Array.isArray(listed)) return [];
  return listed.map((value: unknown, i) => {
    const id = isJsonObject(value) ? Number(value["id"]) : Number.NaN;
    return readAddedToken(`${json.file}: added_tokens: ${i}`, id, value);
  });
}

function readAddedToken(place: string, id: number, value: unknown): AddedToken {
  const content = isJsonObject(value) ? value["content"] : undefined;
  if (!isJsonObject(value) || typeof content !== "string" || !Number.isSafeInteger(id)) {
    throw checkpointError(place, `is ${shown(value)}; it must be an added token with its content`);
  }
  const special = value["special"] === true;
  return {
    id,
    content,
    special,
    single_word: value["single_word"] === true,
    lstrip: value["lstrip"] === true,
    rstrip: value["rstrip"] === true,
    normalized: typeof value["normalized"] === "boolean" ? value["normalized"] : !special,
  };
}

export function specialToken(id: number, content: string): AddedToken {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  return { id, content, special: true, ...flags };
}

/**
 * Added tokens with the ids they get: that of the vocabulary if they stand in it, otherwise the
 * next free one, in order. The first mention of a token decides its flags.
 */
export function numberAddedTokens(
  tokens: readonly AddedToken[],
  vocabulary: ReadonlyMap<string, number>,
): readonly AddedToken[] {
  const numbered = new Map<string, AddedToken>();
  let next = vocabulary.size;
  for (const token of tokens) {
    if (numbered.has(token.content)) continue;
    const id = vocabulary.get(token.content) ?? next++;
    numbered.set(token.content, { ...token, id });
  }
  return [...numbered.values()];
}

export function requiredText(files: TokenizerFiles, path: string): string {
  const text = files.texts.get(path);
  if (text !== undefined) return text;
  throw missingFileError(`${files.directory}/${path}`, "copy it from the model's repository");
}

export function requiredJson(files: TokenizerFiles, path: string): JsonConfig {
  return JsonConfig.parse(`${files.directory}/${path}`, requiredText(files, path));
}

export function optionalJson(files: TokenizerFiles, path: string): JsonConfig | undefined {
  const text = files.texts.get(path);
  return text === undefined ? undefined : JsonConfig.parse(`${files.directory}/${path}`, text);
}
