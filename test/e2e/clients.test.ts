/**
 * The example clients in Python and Go, built as their README says, draw a picture from a server and
 * print the details of an error. On a machine without Python or Go the test is skipped, aloud.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  fluxline,
  repository,
  RunningCommand,
  type RunningServer,
  smallModel,
  startServer,
} from "../support/command.ts";

const clients = join(repository, "deploy/examples/clients");
const buildMsMax = 600_000;
/** It serves while both clients are built. */
const serverMsMax = 3 * buildMsMax;

let folder = "";
let server: RunningServer;
let expected = "";

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-e2e-"));
  const args = ["--model", smallModel, "--data", join(folder, "data")];
  server = await startServer(args, {}, serverMsMax);
  const file = join(folder, "expected.png");
  const options = ["--steps", "5", "--seed", "7", "--output", file];
  const ended = await fluxline([
    "generate",
    "a red circle",
    "--server",
    server.address,
    ...options,
  ]);
  expect(ended.code, ended.stderr).toBe(0);
  expected = digest(file);
});
afterAll(async () => {
  await server?.command.stop();
  rmSync(folder, { recursive: true, force: true });
});

const digest = (file: string) => createHash("sha256").update(readFileSync(file)).digest("hex");

interface Program {
  readonly file: string;
  readonly args: readonly string[];
  readonly cwd: string;
}

async function run({ file, args, cwd }: Program, more: readonly string[]) {
  return new RunningCommand(file, [...args, ...more], { cwd }).ended;
}

/** Runs a build step; its output is the reason when it fails. */
async function build(file: string, args: readonly string[], cwd: string): Promise<void> {
  const { code, stdout, stderr } = await new RunningCommand(file, args, { cwd }, buildMsMax).ended;
  expect(code, `${file} ${args.join(" ")}\n${stdout}\n${stderr}`).toBe(0);
}

function versionOf(program: string, args: readonly string[]): string | undefined {
  const { status, stdout } = spawnSync(program, args, { encoding: "utf8" });
  return status === 0 ? stdout.trim() : undefined;
}

/** Python in an environment of its own, kept as long as its requirements stay the same. */
async function pythonClient(): Promise<Program> {
  const requirements = join(clients, "python/requirements.txt");
  const environment = join(repository, ".cache/python-client", digest(requirements).slice(0, 16));
  const python = join(environment, "bin/python");
  if (!existsSync(join(environment, "complete"))) {
    rmSync(environment, { recursive: true, force: true });
    await build("python3", ["-m", "venv", environment], folder);
    const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    await build(python, [...pip, "-r", requirements], folder);
    writeFileSync(join(environment, "complete"), "");
  }
  const cwd = join(folder, "python");
  cpSync(join(clients, "python"), cwd, { recursive: true });
  const generated = join(cwd, "generated");
  mkdirSync(generated, { recursive: true });
  const proto = join(repository, "proto");
  const files = ["image_job", "image_service", "pool"].map((name) =>
    join(proto, `fluxline/v1/${name}.proto`),
  );
  const out = [`--python_out=${generated}`, `--grpc_python_out=${generated}`];
  await build(python, ["-m", "grpc_tools.protoc", "-I", proto, ...out, ...files], cwd);
  return { file: python, args: ["client.py"], cwd };
}

async function goClient(): Promise<Program> {
  const file = join(folder, "go-client");
  await build("go", ["build", "-o", file, "."], join(clients, "go"));
  return { file, args: [], cwd: folder };
}

/** Go 1.25 is what the client's go.mod asks for. */
const go = /go1\.(\d+)/.exec(versionOf("go", ["env", "GOVERSION"]) ?? "");
const hasGo = go !== null && Number(go[1]) >= 25;
/** Debian's Python comes without what makes environments, unless python3-venv is installed. */
const hasPython = versionOf("python3", ["-c", "import venv, ensurepip; print(1)"]) !== undefined;

const languages = [
  { name: "Python", flag: "--", here: hasPython, needs: "Python 3 with venv", start: pythonClient },
  { name: "Go", flag: "-", here: hasGo, needs: "Go 1.25 or newer", start: goClient },
];

describe.each(languages)("the $name client", ({ name, flag, here, needs, start }) => {
  if (!here) console.warn(`${needs} is not installed: the ${name} client is not tested`);

  test.skipIf(!here)(
    "draws the same picture as our own",
    async () => {
      const client = await start();
      const output = join(folder, `${name}.png`);
      const options = { server: server.address, steps: "5", seed: "7", output };
      const args = Object.entries(options).flatMap(([key, value]) => [`${flag}${key}`, value]);
      const drawn = await run(client, [...args, "a red circle"]);
      expect(drawn.code, drawn.stderr).toBe(0);
      expect(drawn.stdout.trim()).toBe(output);
      expect(digest(output)).toBe(expected);

      const wrong = [`${flag}server`, server.address, `${flag}width`, "65"];
      const refused = await run(client, [...wrong, "a red circle"]);
      expect(refused.code).toBe(1);
      expect(refused.stderr).toContain("reason INVALID_REQUEST");
      expect(refused.stderr).toContain("field spec.width: is 65; use a multiple of 16");
    },
    buildMsMax,
  );
});

test.skipIf(!hasGo)(
  "the Go client's generated code is what the proto files generate",
  async () => {
    const copy = join(folder, "generated-anew");
    for (const part of ["buf.yaml", "proto", "deploy/examples/clients/go"]) {
      cpSync(join(repository, part), join(copy, part), { recursive: true });
    }
    const template = "deploy/examples/clients/go/buf.gen.yaml";
    const args = ["generate", "--template", template, "--path", "proto/fluxline/v1"];
    await build(join(repository, "node_modules/.bin/buf"), args, copy);
    for (const name of ["image_job", "image_service", "image_service_grpc", "pool"]) {
      const file = `deploy/examples/clients/go/fluxline/v1/${name}.pb.go`;
      const anew = readFileSync(join(copy, file), "utf8");
      expect(readFileSync(join(repository, file), "utf8"), file).toBe(anew);
    }
  },
  buildMsMax,
);
