import { describe, expect, test } from "vitest";
import { PrecompiledCharsmap } from "./precompiled-charsmap.ts";

/** A map in the compiled layout, one block of 256 units per node of the trie. */
function compiled(replacements: Record<string, string>): string {
  const texts: number[] = [];
  const units = new Map<number, number>([[0, link(0, 256)]]);
  let blocks = 1;
  for (const [key, text] of Object.entries(replacements)) {
    let base = 256;
    const bytes = Buffer.from(key);
    for (const [i, byte] of bytes.entries()) {
      const at = base + byte;
      const known = units.get(at);
      const child = known === undefined ? 256 * ++blocks : at ^ offsetOf(known);
      const leaf = i === bytes.length - 1 || ((known ?? 0) & 0x100) !== 0;
      units.set(at, link(at, child) | byte | (leaf ? 0x100 : 0));
      base = child;
    }
    units.set(base, texts.length);
    texts.push(...Buffer.from(`${text}\0`));
  }
  const trie = Buffer.alloc(4 * 256 * (blocks + 1));
  for (const [at, unit] of units) trie.writeUInt32LE(unit >>> 0, 4 * at);
  const size = Buffer.alloc(4);
  size.writeUInt32LE(trie.length);
  return Buffer.concat([size, trie, Buffer.from(texts)]).toString("base64");
}

/** Offsets of 2^21 and more are stored in steps of 256; these are smaller. */
function link(from: number, to: number): number {
  return (from ^ to) << 10;
}

function offsetOf(unit: number): number {
  return unit >>> 10;
}

describe("a character map", () => {
  const charsmap = new PrecompiledCharsmap(
    "tokenizer.json",
    compiled({ "\t": " ", ﬁ: "fi", Å: "A\u030a", "e\u0301": "é", x: "" }),
  );
  const cases: Record<string, [text: string, normalized: string]> = {
    "leaves what it does not know": ["a red 狐 🦊", "a red 狐 🦊"],
    "replaces characters of one and of several bytes": ["a\tﬁg", "a fig"],
    "gives more characters than it takes": ["Å", "A\u030a"],
    "takes a short grapheme as a whole": ["cafe\u0301", "café"],
    "takes a long grapheme character by character": ["ﬁ\u0301\u0301", "fi\u0301\u0301"],
    "can take characters away": ["axbx", "ab"],
    "needs nothing": ["", ""],
  };
  for (const [name, [text, normalized]] of Object.entries(cases)) {
    test(name, () => expect(charsmap.normalize(text)).toBe(normalized));
  }

  test("of bytes that are none is refused by its place", () => {
    for (const base64 of ["", "AAAA", "/////w=="]) {
      expect(() => new PrecompiledCharsmap("t.json: map", base64)).toThrow("t.json: map");
    }
  });
});
