/** What the parts say when what they stand on is missing or full. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { fluxline, RunningCommand, smallModel, startServer } from "../support/command.ts";

let folder = "";
const started: RunningCommand[] = [];
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

const failureOf = (stderr: string) =>
  (JSON.parse(stderr) as { error: { code: string; reason: string; message: string } }).error;

describe("a full disk", () => {
  test("where results are kept fails the job with the reason, and later jobs work", async () => {
    // A store for results of 512 KiB: a real store of a real nats-server that takes no more. The
    // other stores shrink with it and are still large enough.
    const env = { FLUXLINE_STORE_SIZE_SCALE: String(512 / (4 * 1024 ** 2)) };
    const args = ["--model", smallModel, "--data", join(folder, "small-store")];
    const server = await startServer(args, { env });
    started.push(server.command);
    const large = ["--steps", "1", "--width", "512", "--height", "512"];
    const drawing = ["generate", "a red circle", ...large, "--server", server.address];
    const full = await fluxline([...drawing, "--json", "--output", join(folder, "a.png")]);
    expect(full.code).toBe(1);
    const failure = failureOf(full.stderr);
    // It was tried again, in case room was made.
    expect(failure).toMatchObject({ code: "aborted", reason: "ATTEMPTS_EXHAUSTED" });
    expect(failure.message).toMatch(/store "results" takes no more .*: free space/);
    // The server lives and answers.
    const listed = await fluxline(["jobs", "list", "--server", server.address]);
    expect(listed.stdout).toContain("failed");
    const small = ["generate", "x", "--steps", "1", "--output", join(folder, "b.png")];
    expect((await fluxline([...small, "--server", server.address])).code).toBe(0);
    await server.command.stop();
    await server.command.untilGone();
  });

  // Needs the right to mount, which a test machine may not give.
  const small = mkdtempSync(join(tmpdir(), "fluxline-e2e-small-"));
  const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=8k", "tmpfs", small]).status === 0;
  if (mounted) mounts.push(small);
  else console.warn("no right to mount a small disk: writing to a full one is not tested");

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
