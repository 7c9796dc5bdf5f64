import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hubSettings } from "./hub-settings.ts";

let home = "";
beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), "fluxline-settings-"));
  writeFileSync(join(home, "token"), "hf_file\n");
});
afterAll(() => rmSync(home, { recursive: true, force: true }));

describe("settings", () => {
  test("have defaults below the home folder", () => {
    expect(hubSettings({ HOME: "/home/a" })).toMatchObject({
      endpoint: "https://huggingface.co",
      token: undefined,
      isOffline: false,
      cacheFolder: "/home/a/.cache/fluxline/hub",
      cacheBytesMax: undefined,
      hfCacheFolder: "/home/a/.cache/huggingface/hub",
    });
  });

  test.each([
    ["an endpoint loses its slash", { HF_ENDPOINT: "http://h:1/" }, { endpoint: "http://h:1" }],
    ["a cache of one's own", { FLUXLINE_CACHE: "/c" }, { cacheFolder: "/c/hub" }],
    ["a limit", { FLUXLINE_CACHE_MAX: "2GiB" }, { cacheBytesMax: 2 ** 31 }],
    ["offline as a word", { HF_HUB_OFFLINE: "TRUE" }, { isOffline: true }],
    ["offline switched off", { HF_HUB_OFFLINE: "0" }, { isOffline: false }],
    ["the hub's cache by itself", { HF_HUB_CACHE: "/x" }, { hfCacheFolder: "/x" }],
    ["the hub's home", { HF_HOME: "/h" }, { hfCacheFolder: "/h/hub" }],
  ])("%s", (_, environment, expected) => {
    expect(hubSettings({ HOME: "/home/a", ...environment })).toMatchObject(expected);
  });

  test("a token is read from HF_HOME, and the variable wins", () => {
    expect(hubSettings({ HF_HOME: home }).token).toBe("hf_file");
    expect(hubSettings({ HF_HOME: home, HF_TOKEN: "x" }).token).toBe("x");
  });

  test("what is wrong is named all at once", () => {
    expect(() => hubSettings({ HF_ENDPOINT: "hub", FLUXLINE_CACHE_MAX: "much" })).toThrow(
      /HF_ENDPOINT: is "hub".*FLUXLINE_CACHE_MAX: is "much"/,
    );
  });
});
