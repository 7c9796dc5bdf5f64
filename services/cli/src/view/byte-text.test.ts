import { expect, test } from "vitest";
import { byteText, countText } from "./byte-text.ts";

test.each([
  [0, "0 bytes"],
  [1023, "1023 bytes"],
  [1024, "1.0 KiB"],
  [1_536_000_000, "1.4 GiB"],
])("%d bytes read %s", (bytes, text) => expect(byteText(bytes)).toBe(text));

test.each([
  [999, "999"],
  [4_200_000, "4.2 million"],
  [11_901_408_320, "11.9 billion"],
])("%d reads %s", (count, text) => expect(countText(count)).toBe(text));
