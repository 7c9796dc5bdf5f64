/**
 * The text normalisation that SentencePiece compiles into a model (for T5: NFKC with its own
 * exceptions), as the tokenizers library applies it: a whole grapheme of fewer than six bytes if
 * the map knows its beginning, otherwise character by character.
 *
 *   bytes: u32 size of the trie | trie: u32 units | replacements, each ended by a zero byte
 *   unit:  bits 0-7 label, 8 has a leaf, 9 wide offset, 10-30 offset; a leaf: bits 0-30 value
 *
 * The trie is a double array (Yata's darts-clone): the child for byte c of the node at p is p ^ c.
 */
import { checkpointError } from "./checkpoint-error.ts";

const WHOLE_GRAPHEME_BYTES_END = 6;

export class PrecompiledCharsmap {
  readonly #units: Uint32Array;
  readonly #replacements: Uint8Array;
  readonly #encoder = new TextEncoder();
  readonly #decoder = new TextDecoder();
  readonly #graphemes = new Intl.Segmenter("en", { granularity: "grapheme" });

  /** `base64` as in tokenizer.json; `place` names it in errors. */
  constructor(place: string, base64: string) {
    const bytes = Buffer.from(base64, "base64");
    const trieBytes = bytes.length >= 4 ? bytes.readUInt32LE(0) : -1;
    if (trieBytes < 4 || trieBytes % 4 !== 0 || 4 + trieBytes > bytes.length) {
      const description = `holds ${bytes.length} bytes that are no character map; fetch it again`;
      throw checkpointError(place, description);
    }
    const units = new Uint32Array(trieBytes / 4);
    for (let i = 0; i < units.length; i++) units[i] = bytes.readUInt32LE(4 + 4 * i);
    this.#units = units;
    this.#replacements = bytes.subarray(4 + trieBytes);
  }

  normalize(text: string): string {
    let normalized = "";
    for (const { segment } of this.#graphemes.segment(text)) {
      normalized += this.#whole(segment) ?? this.#byCharacter(segment);
    }
    return normalized;
  }

  #whole(grapheme: string): string | undefined {
    const bytes = this.#encoder.encode(grapheme);
    return bytes.length < WHOLE_GRAPHEME_BYTES_END ? this.#replacement(bytes) : undefined;
  }

  #byCharacter(grapheme: string): string {
    let normalized = "";
    for (const character of grapheme) {
      normalized += this.#replacement(this.#encoder.encode(character)) ?? character;
    }
    return normalized;
  }

  /** What the shortest known beginning of `key` becomes; all of `key` is replaced by it. */
  #replacement(key: Uint8Array): string | undefined {
    const units = this.#units;
    let position = childOffset(units[0]!);
    for (const byte of key) {
      if (byte === 0) return undefined;
      position ^= byte;
      const unit = units[position];
      if (unit === undefined || (unit & 0x800000ff) !== byte) return undefined;
      position ^= childOffset(unit);
      if ((unit & 0x100) !== 0) return this.#textAt((units[position] ?? 0) & 0x7fffffff);
    }
    return undefined;
  }

  #textAt(start: number): string {
    const end = this.#replacements.indexOf(0, start);
    return this.#decoder.decode(
      this.#replacements.subarray(start, end < 0 ? this.#replacements.length : end),
    );
  }
}

function childOffset(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
