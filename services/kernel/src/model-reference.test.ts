import { describe, expect, test } from "vitest";
import type { AppError } from "./error.ts";
import { hubReferenceText, isCommit, parseModelReference } from "./model-reference.ts";

const commit = "0123456789abcdef0123456789abcdef01234567";

describe("a text names", () => {
  test.each([
    ["a folder that exists, whatever it looks like", "org/name", true, undefined],
    ["a folder, by a leading slash", "/models/x", false, undefined],
    ["a folder, by a leading dot", "./org/name", false, undefined],
    ["a folder, by a leading tilde", "~/models", false, undefined],
    ["a hub model", "org/name", false, { repository: "org/name", revision: undefined }],
    ["a branch", "org/n-1.0_b@main", false, { repository: "org/n-1.0_b", revision: "main" }],
    ["a branch with a slash", "o/n@refs/pr/1", false, { repository: "o/n", revision: "refs/pr/1" }],
    ["a commit", `o/n@${commit}`, false, { repository: "o/n", revision: commit }],
  ])("%s", (_, text, exists, hub) => {
    const parsed = parseModelReference(text, exists);
    if (hub === undefined) return expect(parsed).toEqual({ kind: "folder", folder: text });
    expect(parsed).toEqual({ kind: "hub", ...hub });
    expect(hubReferenceText({ kind: "hub", ...hub })).toBe(text);
  });

  test.each([
    ["one word", "flux"],
    ["nothing", ""],
    ["three parts", "a/b/c"],
    ["a part that climbs", "a/.."],
    ["two dots", "a/b..c"],
    ["two revisions", "a/b@c@d"],
    ["an empty revision", "a/b@"],
    ["a revision that climbs", "a/b@x/../y"],
    ["a space", "a/b c"],
    ["a web address", "https://huggingface.co/a/b"],
  ])("neither: %s, and the error says both ways out", (_, text) => {
    try {
      parseModelReference(text, false);
      expect.unreachable();
    } catch (thrown) {
      const error = thrown as AppError;
      expect(error.reason).toBe("INVALID_MODEL");
      expect(error.message).toContain(`"${text}"`);
      expect(error.message).toContain("path of a folder");
      expect(error.message).toContain("black-forest-labs/FLUX.1-schnell");
    }
  });
});

test("a commit is 40 hexadecimal digits", () => {
  expect([commit, "main", commit.slice(1), undefined].map(isCommit)).toEqual([
    true,
    false,
    false,
    false,
  ]);
});
