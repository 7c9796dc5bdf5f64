/** Pages of a list: sizes are capped silently, tokens are opaque and belong to their list. */
import { invalidArgument } from "@fluxline/kernel/error.ts";

export const pageSizeDefault = 50;
export const pageSizeMax = 1_000;

export function pageSize(requested: number): number {
  if (requested < 0) {
    const description = `is ${requested}; use 0 (for ${pageSizeDefault}) to ${pageSizeMax}`;
    throw invalidArgument([{ field: "page_size", description }]);
  }
  return Math.min(requested || pageSizeDefault, pageSizeMax);
}

/** `list`: what is listed and how it is filtered; a token is refused for another list. */
export function encodePageToken(list: string, after: string): string {
  return Buffer.from(JSON.stringify([list, after])).toString("base64url");
}

/** Undefined for the first page. */
export function decodePageToken(list: string, token: string): string | undefined {
  if (token === "") return undefined;
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(token, "base64url").toString());
  } catch {
    parsed = undefined;
  }
  if (Array.isArray(parsed) && parsed[0] === list && typeof parsed[1] === "string") {
    return parsed[1];
  }
  const description = "does not belong to this list; take the next_page_token of the page before";
  throw invalidArgument([{ field: "page_token", description }], "INVALID_PAGE_TOKEN");
}
