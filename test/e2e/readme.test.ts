/**
 * Every command that README.md shows in a `bash` block is run, in order, as it stands there, but for
 * the places that belong to the reader's machine: the port, the data folder, a FLUX.1 folder, the hub.
 * `npm test` is what runs this.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { repository, RunningCommand } from "../support/command.ts";
import { HubServer } from "../support/hub-server.ts";
import { freePort } from "../support/nats.ts";

const schnell = join(repository, "test/golden/data/checkpoints/schnell-like");
const demoFile = join(repository, "out/demo.png");
const ready = /^ready after /;

const blocks = [
  ...readFileSync(join(repository, "README.md"), "utf8").matchAll(/```bash\n(.*?)```/gs),
]
  .map(([, text]) => (text ?? "").trim().split("\n"))
  .map((lines) => ({ title: lines[0] ?? "", lines: lines.filter((line) => line !== "npm test") }))
  .filter(({ lines }) => lines.length > 0);

let data = "";
let port = "";
let hub: HubServer;
let present: string[] = [];
const started: RunningCommand[] = [];
beforeAll(async () => {
  data = mkdtempSync(join(tmpdir(), "fluxline-e2e-"));
  port = String(await freePort());
  hub = await HubServer.start();
  await hub.serve("black-forest-labs/FLUX.1-schnell", schnell);
  present = readdirSync(repository);
});
afterEach(() => {
  for (const command of started.splice(0)) command.killAll();
});
afterAll(async () => {
  await hub.close();
  rmSync(data, { recursive: true, force: true });
  // Pictures that the commands wrote into the current folder.
  for (const name of readdirSync(repository)) {
    if (!present.includes(name) && /\.(png|jpg|webp)$/.test(name)) rmSync(join(repository, name));
  }
});

/** The command as the README has it, on this machine. */
function here(line: string): string {
  const placed = line
    .replaceAll("/models/FLUX.1-schnell", schnell)
    .replaceAll("127.0.0.1:50051", `127.0.0.1:${port}`);
  if (/fluxline up\b/.test(line)) return `${placed} --port ${port} --data ${data}`;
  if (/fluxline jobs\b/.test(line)) return `${placed} --server 127.0.0.1:${port}`;
  return placed;
}

function run(line: string): RunningCommand {
  const command = new RunningCommand("sh", ["-c", here(line)], {
    env: { HF_ENDPOINT: hub.endpoint, HF_HOME: data, FLUXLINE_CACHE: join(data, "cache") },
  });
  started.push(command);
  return command;
}

test("README.md has the commands that it should", () => {
  const all = blocks.flatMap(({ lines }) => lines).join("\n");
  for (const command of [
    "npm run demo",
    "fluxline generate",
    "fluxline up",
    "model inspect",
    "model list",
  ]) {
    expect(all).toContain(command);
  }
});

describe("README.md", () => {
  test.each(blocks)("$title", async ({ lines }) => {
    let server: RunningCommand | undefined;
    for (const line of lines) {
      const command = run(line);
      if (/fluxline up\b/.test(line)) {
        await command.line((said) => ready.test(said));
        server = command;
        continue;
      }
      const { code, stdout, stderr } = await command.ended;
      expect(code, `${line}\n${stdout}\n${stderr}`).toBe(0);
    }
    if (server !== undefined) {
      // What Ctrl-C reaches: npx and the shell around it only wait.
      process.kill(server.process("bin/fluxline up").pid, "SIGINT");
      expect((await server.ended).stdout).toContain("stopped");
    }
    for (const command of started) await command.untilGone();
  });

  test("npm run demo says where its picture is, and it is there", async () => {
    if (existsSync(demoFile)) rmSync(demoFile);
    const { code, stdout, stderr } = await run("npm run demo").ended;
    expect(code, stderr).toBe(0);
    expect(stdout).toContain(demoFile);
    expect(statSync(demoFile).size).toBeGreaterThan(500);
  });
});
