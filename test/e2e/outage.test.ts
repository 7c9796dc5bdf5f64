/** What the parts say when what they stand on is missing or full. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { fluxline, RunningCommand, smallModel } from "../support/command.ts";

let folder = "";
const started: RunningCommand[] = [];
/** Folders on which a small disk is mounted, where that is allowed. */
const mounts: string[] = [];
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-e2e-"));
});
afterEach(() => {
  for (const command of started.splice(0)) command.killAll();
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  for (const mount of mounts) {
    spawnSync("umount", ["--lazy", mount]);
    rmSync(mount, { recursive: true, force: true });
  }
});

describe("without NATS", () => {
  const nowhere = "nats://127.0.0.1:1";
  const gpuNode = ["services/gpu-node/src/main.ts", "serve", "--model", smallModel];

  test.each([
    ["the scheduler", ["services/scheduler/src/main.ts"], { FLUXLINE_NATS_URL: nowhere }],
    ["the GPU node", [...gpuNode, "--nats", nowhere], {}],
  ])("%s ends within its bound and names the address", async (_, args, settings) => {
    const env = { ...settings, FLUXLINE_NATS_WAIT_SECONDS: "1" };
    const command = new RunningCommand(process.execPath, args, { env });
    started.push(command);
    const { code, stdout } = await command.ended;
    expect(code).toBe(1);
    const said: Record<string, unknown> = JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
    expect(said["event"]).toBe("failed");
    expect(JSON.stringify(said)).toContain("127.0.0.1:1");
  });
});

describe("a full disk", () => {
  // Needs the right to mount, which a test machine may not give.
  const small = mkdtempSync(join(tmpdir(), "fluxline-e2e-small-"));
  const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=8k", "tmpfs", small]).status === 0;
  mounts.push(small);
  if (!mounted) console.warn("no right to mount a small disk: writing to a full one is not tested");

  test.skipIf(!mounted)(
    "where the picture is written names the file, and leaves none",
    async () => {
      const output = join(small, "a.png");
      const argv = ["generate", "a red circle", "--model", smallModel, "--steps", "2"];
      const { code, stderr } = await fluxline([...argv, "--output", output]);
      expect(code).toBe(1);
      expect(stderr).toContain(`--output: ${output} could not be written: the disk is full`);
      expect(readdirSync(small)).toEqual([]);
    },
  );
});
