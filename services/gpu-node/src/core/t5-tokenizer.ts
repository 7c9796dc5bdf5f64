/**
 * T5's tokenizer from its tokenizer.json: the most likely split of each word into SentencePiece
 * units (a unigram model). As in transformers' T5Tokenizer only the vocabulary, its scores and the
 * character map come from the file; words are split at white space and marked with U+2581.
 */
import { Tokenizer } from "@huggingface/tokenizers";
import { checkpointError, shown } from "./checkpoint-error.ts";
import { isJsonObject, JsonConfig } from "./json-config.ts";
import { PrecompiledCharsmap } from "./precompiled-charsmap.ts";
import {
  type AddedToken,
  jsonAddedTokens,
  numberAddedTokens,
  requiredJson,
  specialToken,
  TextTokenizer,
  type TokenizerFiles,
  TokenizerSettings,
} from "./text-tokenizer.ts";

const END = "</s>";
const UNKNOWN = "<unk>";
const PADDING = "<pad>";
const EXTRA_TOKENS = 100;
/** transformers fixes this place of the unknown token, whatever the file says. */
const UNKNOWN_ID = 2;
/** Unicode's white space: JavaScript's own has U+FEFF more and U+0085 less. */
const WHITE_SPACE = {
  type: "Split",
  pattern: { Regex: "\\p{White_Space}+" },
  behavior: "Removed",
  invert: false,
};
const WORD_MARK = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "always" };

/** The tokenizer in `folder` of the checkpoint. */
export function t5Tokenizer(files: TokenizerFiles, folder: string): TextTokenizer {
  const json = requiredJson(files, `${folder}/tokenizer.json`);
  const settings = new TokenizerSettings(files, folder);
  const vocabulary = readVocabulary(json);
  const end = settings.special("eos_token", END);
  const padding = settings.special("pad_token", PADDING);
  const specials = [end, settings.special("unk_token", UNKNOWN), padding];
  const ids = new Map(vocabulary.map(([piece], id) => [piece, id]));
  const added = numberAddedTokens(
    [
      ...settings.addedTokens(),
      ...jsonAddedTokens(json),
      ...specials.map((content) => specialToken(-1, content)),
      ...extraTokens(settings),
    ],
    ids,
  );
  const idOf = (content: string): number => added.find((token) => token.content === content)!.id;
  const charsmap = readCharsmap(json);
  return new TextTokenizer({
    pieces: new Tokenizer(definition(vocabulary, added), { eos_token: end }),
    prepare: (text) => charsmap?.normalize(text) ?? text,
    before: [],
    after: [idOf(end)],
    padding: idOf(padding),
    lengthMax: settings.lengthMax,
  });
}

function definition(vocabulary: readonly Piece[], added: readonly AddedToken[]): object {
  return {
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: { type: "Sequence", pretokenizers: [WHITE_SPACE, WORD_MARK] },
    post_processor: null,
    decoder: null,
    model: { type: "Unigram", unk_id: UNKNOWN_ID, vocab: vocabulary, byte_fallback: false },
  };
}

type Piece = readonly [piece: string, score: number];

function readVocabulary(json: JsonConfig): readonly Piece[] {
  const model = json.value("model");
  const config = new JsonConfig(`${json.file}: model`, isJsonObject(model) ? model : {});
  config.oneOf("type", ["Unigram"]);
  const listed = config.value("vocab");
  if (!Array.isArray(listed) || listed.length <= UNKNOWN_ID) {
    throw config.error("vocab", `is ${shown(listed)}; it must be a list of [piece, score]`);
  }
  return listed.map((entry: unknown, i) => {
    const [piece, score] = Array.isArray(entry) ? entry : [];
    if (typeof piece === "string" && typeof score === "number") return [piece, score];
    throw config.error(`vocab: ${i}`, `is ${shown(entry)}; it must be [piece, score]`);
  });
}

/** The sentinels `<extra_id_0>` and on, which a prompt may name but hardly ever does. */
function extraTokens(settings: TokenizerSettings): readonly AddedToken[] {
  const listed = settings.strings("additional_special_tokens");
  const count = settings.integer("extra_ids", EXTRA_TOKENS);
  const named = listed.some((content) => content.includes("<extra_id_"));
  const extra = named ? [] : Array.from({ length: count }, (_, i) => `<extra_id_${i}>`);
  return [...listed, ...extra].map((content) => specialToken(-1, content));
}

/** The character map, alone or within a sequence of normalizers; a small model may have none. */
function readCharsmap(json: JsonConfig): PrecompiledCharsmap | undefined {
  const normalizer = json.value("normalizer");
  if (!isJsonObject(normalizer)) return undefined;
  const inner = normalizer["normalizers"];
  const found = (Array.isArray(inner) ? inner : [normalizer]).find(
    (candidate) => isJsonObject(candidate) && candidate["type"] === "Precompiled",
  );
  if (found === undefined) return undefined;
  const place = `${json.file}: normalizer: precompiled_charsmap`;
  const base64: unknown = found["precompiled_charsmap"];
  if (typeof base64 === "string") return new PrecompiledCharsmap(place, base64);
  throw checkpointError(place, `is ${shown(base64)}; it must be base64 text`);
}
