/** Pages of a list: sizes are capped silently, tokens are opaque and belong to their list. */
import { type AppError, invalidArgument } from "@fluxline/kernel/error.ts";

export const pageSizeDefault = 50;
export const pageSizeMax = 1_000;
/** gRPC clients refuse messages above 4 MiB unless they are told otherwise: a page ends before. */
export const pageBytesMax = 2 * 1024 * 1024;

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
  throw badToken();
}

/** As `decodePageToken`, for lists in order of arrival. */
export function decodeArrivalToken(list: string, token: string): bigint | undefined {
  const after = decodePageToken(list, token);
  if (after === undefined) return undefined;
  if (!/^\d{1,20}$/.test(after)) throw badToken();
  return BigInt(after);
}

function badToken(): AppError {
  const description = "does not belong to this list; take the next_page_token of the page before";
  return invalidArgument([{ field: "page_token", description }], "INVALID_PAGE_TOKEN");
}
