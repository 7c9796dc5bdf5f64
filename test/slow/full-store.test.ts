/**
 * A store for results that takes no more: the job is tried again for about two minutes, in case room
 * is made, and then fails with the reason and the way out.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { fluxline, type RunningServer, startFluxline, startServer } from "../support/command.ts";
import { smallModel } from "../support/command.ts";

const msMax = 400_000;
/** 512 KiB for results; the other stores shrink with it and are still large enough. */
const scale = 512 / (4 * 1024 ** 2);

let folder = "";
let server: RunningServer;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-slow-"));
  const env = { FLUXLINE_STORE_SIZE_SCALE: String(scale) };
  const args = ["--model", smallModel, "--data", join(folder, "data")];
  server = await startServer(args, { env }, msMax);
});
afterAll(async () => {
  await server?.command.stop();
  server?.command.killAll();
  rmSync(folder, { recursive: true, force: true });
});

test(
  "a picture that the store does not take fails with the reason, others are drawn",
  async () => {
    const drawing = (name: string, size: string) => {
      const sizes = ["--width", size, "--height", size, "--steps", "1"];
      const rest = ["--server", server.address, "--output", join(folder, name)];
      return ["generate", "a red circle", "--json", ...sizes, ...rest];
    };
    const large = startFluxline(drawing("large.png", "512"), {}, msMax);
    const begun = large.line((line) => line.includes("STATE_RUNNING"));
    await begun;
    // While the large one waits for its next try.
    expect((await fluxline(drawing("small.png", "64"))).code).toBe(0);
    const { code, stderr } = await large.ended;
    expect(code).toBe(1);
    const { error }: { error: { code: string; reason: string; message: string } } =
      JSON.parse(stderr);
    expect(error).toMatchObject({ code: "resource_exhausted", reason: "STORE_FULL" });
    expect(error.message).toMatch(/store "results" takes no more .*: free space/);
    const listed = await fluxline(["jobs", "list", "--server", server.address]);
    expect(listed.stdout).toContain("failed");
    expect(listed.stdout).toContain("succeeded");
  },
  msMax,
);
