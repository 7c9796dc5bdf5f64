import { describe, expect, test } from "vitest";
import { answerError, type HubAnswer, type HubTarget, unreachableError } from "./hub-error.ts";

const target: HubTarget = {
  endpoint: "https://hub.example",
  repository: "org/name",
  revision: "v1",
  hasToken: false,
};
const file: HubTarget = { ...target, path: "vae/config.json" };
const tokened: HubTarget = { ...target, hasToken: true };
const answer = (status: number, errorCode?: string): HubAnswer => ({
  status,
  errorCode,
  retryAfterMs: undefined,
});

describe("an answer", () => {
  test.each<[string, HubTarget, HubAnswer, string, boolean, string[]]>([
    [
      "of a gated model names page and variable",
      target,
      answer(401, "GatedRepo"),
      "HUB_GATED",
      false,
      ["https://hub.example/org/name", "HF_TOKEN"],
    ],
    [
      "of a gated model, with a token, says that it has no access",
      tokened,
      answer(403, "GatedRepo"),
      "HUB_GATED",
      false,
      ["https://hub.example/org/name", "no access yet"],
    ],
    [
      "401 without a token speaks of one",
      target,
      answer(401),
      "HUB_ACCESS_DENIED",
      false,
      ["set HF_TOKEN"],
    ],
    [
      "403 with a token says that it is wrong",
      tokened,
      answer(403),
      "HUB_ACCESS_DENIED",
      false,
      ["HF_TOKEN (or in HF_HOME/token) is wrong"],
    ],
    [
      "401 of a model that is not there, or private",
      target,
      answer(401, "RepoNotFound"),
      "HUB_MODEL_NOT_FOUND",
      false,
      ["org/name", "private"],
    ],
    [
      "404 of a model",
      target,
      answer(404, "RepoNotFound"),
      "HUB_MODEL_NOT_FOUND",
      false,
      ["org/name", "HF_ENDPOINT"],
    ],
    [
      "404 of a revision names it",
      target,
      answer(404, "RevisionNotFound"),
      "HUB_REVISION_NOT_FOUND",
      false,
      ["revision v1"],
    ],
    [
      "404 of a file names it",
      file,
      answer(404, "EntryNotFound"),
      "HUB_FILE_NOT_FOUND",
      false,
      ["vae/config.json", "diffusers layout"],
    ],
    ["416", file, answer(416), "HUB_RANGE_REFUSED", false, ["model remove"]],
    ["429", target, answer(429), "HUB_TOO_MANY_REQUESTS", true, ["too many requests"]],
    ["503", target, answer(503), "HUB_UNAVAILABLE", true, ["503", "mirror"]],
    ["418", target, answer(418), "HUB_ANSWER_INVALID", false, ["418", "HF_ENDPOINT"]],
  ])("%s", (_, of, given, reason, retryable, parts) => {
    const error = answerError(of, given);
    expect({ reason: error.reason, retryable: error.retryable }).toEqual({ reason, retryable });
    for (const part of parts) expect(error.message).toContain(part);
    expect(error.message).toContain("org/name");
  });
});

test("an unreachable hub is told with the innermost cause", () => {
  const cause = new TypeError("fetch failed", { cause: new Error("connect ECONNREFUSED ::1:9") });
  expect(unreachableError(target, cause).message).toContain("connect ECONNREFUSED ::1:9");
});
