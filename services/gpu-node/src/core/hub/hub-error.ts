/**
 * What can go wrong with a hub, as errors that name the model, the value and the way out. They are
 * told apart by `reason`. Pure: a status and headers in, an error out.
 */
import { AppError, type ErrorCode } from "@fluxline/kernel/error.ts";

/** What is asked for, as it stands in messages. */
export interface HubTarget {
  readonly endpoint: string;
  /** `org/name`. */
  readonly repository: string;
  /** A branch, tag or commit. */
  readonly revision: string;
  /** A file of it; undefined: the repository itself. */
  readonly path?: string | undefined;
  readonly hasToken: boolean;
}

export interface HubAnswer {
  readonly status: number;
  /** Header X-Error-Code. */
  readonly errorCode: string | undefined;
  /** Header Retry-After, in milliseconds from now. */
  readonly retryAfterMs: number | undefined;
}

export function hubError(
  code: ErrorCode,
  reason: string,
  message: string,
  options: { retryable?: boolean; retryAfterMs?: number | undefined; cause?: unknown } = {},
): AppError {
  const { retryable = false, retryAfterMs, cause } = options;
  return new AppError(code, message, {
    reason,
    retryable,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    cause,
  });
}

export function targetText({ repository, revision, path }: HubTarget): string {
  const model = `${repository}@${revision}`;
  return path === undefined ? model : `${model}: ${path}`;
}

/** The error of an answer that is not a success. Only `retryable` ones are worth another try. */
export function answerError(target: HubTarget, answer: HubAnswer): AppError {
  const { status, errorCode } = answer;
  const what = targetText(target);
  const said = `${target.endpoint} answered ${status}`;
  if (status === 401 || status === 403) return accessError(target, answer);
  if (status === 404) return missingError(target, errorCode);
  if (status === 416) {
    const message =
      `${what}: ${said} to a range of the size that it had listed, so the file is not what it ` +
      "was; remove the model (fluxline model remove) and pull it again";
    return hubError("failed_precondition", "HUB_RANGE_REFUSED", message);
  }
  if (status === 429) {
    const { retryAfterMs } = answer;
    const wait = retryAfterMs === undefined ? "wait" : `wait ${Math.ceil(retryAfterMs / 1000)} s`;
    const message = `${what}: ${said}, too many requests; ${wait}, or set HF_TOKEN for a higher limit`;
    const options = { retryable: true, retryAfterMs };
    return hubError("resource_exhausted", "HUB_TOO_MANY_REQUESTS", message, options);
  }
  if (status >= 500 || status === 408) {
    const message = `${what}: ${said}; try again later, or set HF_ENDPOINT to a mirror`;
    return hubError("unavailable", "HUB_UNAVAILABLE", message, { retryable: true });
  }
  const message = `${what}: ${said}, which a hub should not; check HF_ENDPOINT`;
  return hubError("internal", "HUB_ANSWER_INVALID", message);
}

function accessError(target: HubTarget, { status, errorCode }: HubAnswer): AppError {
  const { endpoint, repository, hasToken } = target;
  const what = targetText(target);
  if (errorCode === "GatedRepo") {
    const page = `${endpoint}/${repository}`;
    const then = hasToken
      ? "the token that is set has no access yet: accept with its account"
      : "then set HF_TOKEN to a token of the account that accepted (page Settings, Access Tokens)";
    const message = `${what} is gated: accept its terms on ${page}; ${then}`;
    return hubError("permission_denied", "HUB_GATED", message);
  }
  const token = hasToken
    ? "the token in HF_TOKEN (or in HF_HOME/token) is wrong or may not read it"
    : "if it is private, set HF_TOKEN to a token that may read it";
  if (errorCode === "RepoNotFound") {
    const message = `${what}: ${endpoint} has no such model, and here is no such folder; check the name; ${token}`;
    return hubError("not_found", "HUB_MODEL_NOT_FOUND", message);
  }
  const code = status === 401 ? "unauthenticated" : "permission_denied";
  const message = `${what}: ${endpoint} answered ${status}; ${token}`;
  return hubError(code, "HUB_ACCESS_DENIED", message);
}

function missingError(target: HubTarget, errorCode: string | undefined): AppError {
  const { endpoint, repository, revision, path } = target;
  if (errorCode === "RevisionNotFound") {
    const message =
      `${repository}: ${endpoint} has no revision ${revision} of it; ` +
      `the page ${endpoint}/${repository}/tree/main lists its branches and commits`;
    return hubError("not_found", "HUB_REVISION_NOT_FOUND", message);
  }
  if (path !== undefined && errorCode !== "RepoNotFound") {
    const message =
      `${targetText(target)}: ${endpoint} has no such file; ` +
      "name a repository in diffusers layout, with model_index.json at its top";
    return hubError("not_found", "HUB_FILE_NOT_FOUND", message);
  }
  const message =
    `${repository}: ${endpoint} has no such model, and here is no such folder; check the name ` +
    "(organisation/name, as in the address of its page), and HF_ENDPOINT if it is on a mirror";
  return hubError("not_found", "HUB_MODEL_NOT_FOUND", message);
}

export function offlineError(what: string, missing: string): AppError {
  const message =
    `${what}: ${missing} is not in the cache, or only in part, and HF_HUB_OFFLINE is set; unset it, ` +
    `or fetch the model while there is a network: fluxline model pull ${what}`;
  return hubError("failed_precondition", "HUB_OFFLINE", message);
}

export function unreachableError(target: HubTarget, cause: unknown): AppError {
  const message =
    `${targetText(target)}: ${target.endpoint} cannot be reached (${causeText(cause)}); check the ` +
    "network and HF_ENDPOINT; a model that was pulled needs none with HF_HUB_OFFLINE=1";
  return hubError("unavailable", "HUB_UNREACHABLE", message, { retryable: true, cause });
}

export function stalledError(target: HubTarget, ms: number): AppError {
  const message = `${targetText(target)}: ${target.endpoint} sent nothing for ${ms / 1000} s`;
  return hubError("unavailable", "HUB_STALLED", message, { retryable: true });
}

export function cutShortError(target: HubTarget, got: number, wanted: number, cause?: unknown) {
  const message = `${targetText(target)}: the connection ended after ${got} of ${wanted} bytes`;
  return hubError("unavailable", "HUB_CUT_SHORT", message, { retryable: true, cause });
}

/** Its bytes are of two versions; none of them is kept. */
export function changedError(target: HubTarget, was: string, is: string): AppError {
  const message =
    `${targetText(target)} changed while it was fetched (its ETag was ${was} and is ${is}); ` +
    "what was there of it is thrown away; pull it again";
  return hubError("aborted", "HUB_FILE_CHANGED", message);
}

export function digestError(target: HubTarget, expected: string, found: string): AppError {
  const message =
    `${targetText(target)}: its bytes have the digest ${found}, the hub's list says ${expected}; ` +
    "the file is thrown away; pull it again, from another HF_ENDPOINT if it comes so again";
  return hubError("data_loss", "HUB_DIGEST_MISMATCH", message);
}

export function tooLargeError(target: HubTarget, bytes: number, bytesMax: number): AppError {
  const message =
    `${targetText(target)} has ${bytes} bytes, above the limit of ${bytesMax} for a text or JSON ` +
    "file of a model; name a repository in diffusers layout";
  return hubError("failed_precondition", "HUB_FILE_TOO_LARGE", message);
}

/** The innermost reason: `fetch failed` alone helps nobody. */
function causeText(thrown: unknown): string {
  let at = thrown;
  while (at instanceof Error && at.cause !== undefined) at = at.cause;
  if (!(at instanceof Error)) return String(at);
  const code = "code" in at ? String(at.code) : "";
  return at.message === "" ? code : at.message;
}
