/** Texts as they were typed or piped in: they must be what the user meant, byte for byte. */
import { AppError, invalidArgument } from "@fluxline/kernel/error.ts";

/** Node turns bytes that are not UTF-8 into U+FFFD; the prompt would not be the one typed. */
export function checkTexts(texts: Readonly<Record<string, string>>): void {
  const violations = Object.entries(texts)
    .filter(([, text]) => text.includes("\uFFFD"))
    .map(([field, text]) => ({
      field,
      description:
        `holds U+FFFD at character ${text.indexOf("\uFFFD")}, which stands for bytes that are not ` +
        "UTF-8; type the text in UTF-8",
    }));
  if (violations.length > 0) throw invalidArgument(violations, "INVALID_UTF8");
}

const promptBytesMax = 4 * 1024 * 1024;

/** The prompt itself, or what stdin says when the prompt is `-`. */
export async function readPrompt(given: string, stdin: NodeJS.ReadableStream): Promise<string> {
  if (given !== "-") return given;
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stdin) {
    chunks.push(Buffer.from(chunk));
    size += chunk.length;
    if (size > promptBytesMax) {
      const description = `has more than ${promptBytesMax} bytes; send a shorter text`;
      throw invalidArgument([{ field: "PROMPT", description }], "PROMPT_TOO_LONG");
    }
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks)).trimEnd();
  } catch (cause) {
    const description = "holds bytes that are not UTF-8; send the text as UTF-8";
    const { message, violations } = invalidArgument([{ field: "PROMPT", description }]);
    const options = { reason: "INVALID_UTF8", violations, cause };
    throw new AppError("invalid_argument", message, options);
  }
}
