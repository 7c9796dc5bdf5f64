/**
 * CLIP's tokenizer: byte-level pairs with `</w>` at the end of a word, built from vocab.json and
 * merges.txt as FLUX.1 ships them, or from a tokenizer.json. As in transformers' CLIPTokenizer only
 * vocabulary and merges come from the files; how text is cleaned and split is fixed.
 */
import { Tokenizer } from "@huggingface/tokenizers";
import { checkpointError, shown } from "./checkpoint-error.ts";
import { isJsonObject, JsonConfig, type JsonObject, parseJsonObject } from "./json-config.ts";
import {
  jsonAddedTokens,
  numberAddedTokens,
  optionalJson,
  requiredText,
  specialToken,
  TextTokenizer,
  type TokenizerFiles,
  TokenizerSettings,
} from "./text-tokenizer.ts";

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const WORD_END = "</w>";

/** Special tokens, English contractions, runs of letters, single digits, runs of the rest. */
const PIECES =
  "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d" +
  "|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";

interface Vocabulary {
  readonly ids: ReadonlyMap<string, number>;
  readonly merges: readonly (readonly [string, string])[];
}

/** The tokenizer in `folder` of the checkpoint. */
export function clipTokenizer(files: TokenizerFiles, folder: string): TextTokenizer {
  const settings = new TokenizerSettings(files, folder);
  // A tokenizer.json goes first, as in transformers; FLUX.1 itself has none.
  const json = optionalJson(files, `${folder}/tokenizer.json`);
  const vocabulary = json === undefined ? readPair(files, folder) : readTokenizerJson(json);
  const unknown = settings.special("unk_token", END);
  const start = settings.special("bos_token", START);
  const end = settings.special("eos_token", END);
  const padding = settings.special("pad_token", END);
  const added = numberAddedTokens(
    [
      ...settings.addedTokens(),
      ...(json === undefined ? [] : jsonAddedTokens(json)),
      ...[start, end, unknown, padding].map((content) => specialToken(-1, content)),
    ],
    vocabulary.ids,
  );
  const idOf = (content: string): number => added.find((token) => token.content === content)!.id;
  return new TextTokenizer({
    pieces: new Tokenizer(definition(vocabulary, unknown, added), { eos_token: end }),
    prepare: (text) => text.replaceAll("\u03a3", "\u03c3"),
    before: [idOf(start)],
    after: [idOf(end)],
    padding: idOf(padding),
    lengthMax: settings.lengthMax,
  });
}

function definition(vocabulary: Vocabulary, unknown: string, added: readonly object[]): JsonObject {
  return {
    added_tokens: added,
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "NFC" },
        { type: "Replace", pattern: { Regex: "\\s+" }, content: " " },
        { type: "Lowercase" },
      ],
    },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: PIECES }, behavior: "Removed", invert: true },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      ],
    },
    post_processor: null,
    decoder: null,
    model: {
      type: "BPE",
      unk_token: unknown,
      continuing_subword_prefix: "",
      end_of_word_suffix: WORD_END,
      fuse_unk: false,
      vocab: Object.fromEntries(vocabulary.ids),
      merges: vocabulary.merges,
    },
  };
}

function readPair(files: TokenizerFiles, folder: string): Vocabulary {
  const [vocabPath, mergesPath] = [`${folder}/vocab.json`, `${folder}/merges.txt`];
  const vocabFile = `${files.directory}/${vocabPath}`;
  const vocabulary = parseJsonObject(vocabFile, requiredText(files, vocabPath));
  const merges = mergeLines(requiredText(files, mergesPath));
  return {
    ids: readIds(vocabFile, vocabulary),
    merges: readMerges(`${files.directory}/${mergesPath}`, merges),
  };
}

function readTokenizerJson(json: JsonConfig): Vocabulary {
  const model = json.value("model");
  const values = isJsonObject(model) ? model : {};
  const config = new JsonConfig(`${json.file}: model`, values);
  config.oneOf("type", ["BPE"], "BPE");
  const merges = config.value("merges");
  if (!Array.isArray(merges)) {
    throw config.error("merges", `is ${shown(merges)}; it must be a list of merges`);
  }
  return {
    ids: readIds(`${json.file}: model: vocab`, config.value("vocab")),
    merges: readMerges(`${json.file}: model: merges`, merges),
  };
}

function readIds(place: string, vocabulary: unknown): ReadonlyMap<string, number> {
  if (!isJsonObject(vocabulary)) {
    throw checkpointError(place, `holds ${shown(vocabulary)}; it must map pieces to ids`);
  }
  const ids = new Map<string, number>();
  for (const [piece, id] of Object.entries(vocabulary)) {
    if (typeof id !== "number" || !Number.isSafeInteger(id) || id < 0) {
      throw checkpointError(`${place}: ${piece}`, `is ${shown(id)}; it must be an id of 0 or more`);
    }
    ids.set(piece, id);
  }
  return ids;
}

function mergeLines(text: string): readonly string[] {
  return text.split(/\r?\n/).filter((line) => line !== "" && !line.startsWith("#version"));
}

function readMerges(place: string, merges: readonly unknown[]): readonly [string, string][] {
  return merges.map((merge, i) => {
    const pair = typeof merge === "string" ? merge.split(" ") : merge;
    const valid = Array.isArray(pair) && pair.length === 2;
    if (valid && typeof pair[0] === "string" && typeof pair[1] === "string") {
      return [pair[0], pair[1]];
    }
    const description = `merge ${i + 1} is ${shown(merge)}; it must be two pieces with a space`;
    throw checkpointError(place, description);
  });
}
