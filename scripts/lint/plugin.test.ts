/**
 * Plants one violation of each rule in a small tree of our own shape and asks the real linter with
 * the repository's own configuration; a rule that stopped working would let its plant pass.
 */
import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

interface Plant {
  readonly what: string;
  readonly path: string;
  readonly code: string;
  /** Part of the message, or undefined where the code is fine. */
  readonly refusal: string | undefined;
}

const root = fileURLToPath(new URL("../..", import.meta.url));
const core = "services/scheduler/src/core";
const importing = (specifier: string) => `import { x } from "${specifier}";\nexport const y = x;\n`;
const plant = (what: string, path: string, code: string, refusal?: string): Plant => ({
  what,
  path,
  code,
  refusal,
});

const direction = [
  plant("core may import core", `${core}/a.ts`, importing("./b.ts")),
  plant("core may import the kernel", `${core}/a.ts`, importing("@fluxline/kernel/error.ts")),
  plant(
    "core may not import adapters",
    `${core}/a.ts`,
    importing("../adapters/grpc.ts"),
    "core code imports adapters code",
  ),
  plant(
    "core may not import platform",
    `${core}/a.ts`,
    importing("@fluxline/platform/clock.ts"),
    "core code imports platform code",
  ),
  plant(
    "core may not import generated code, not even a type",
    `${core}/a.ts`,
    'import type { ImageJob } from "@fluxline/proto/fluxline/v1/image_job.ts";\n' +
      "export type Job = ImageJob;\n",
    "core code imports proto code",
  ),
  plant(
    "core may not read files",
    `${core}/a.ts`,
    importing("node:fs"),
    "core code is pure and imports node:fs",
  ),
  plant(
    "core may not load a runtime",
    `${core}/a.ts`,
    importing("onnxruntime-node"),
    "core code is pure and imports onnxruntime-node",
  ),
  plant(
    "core may not know the models",
    "services/gpu-node/src/core/a.ts",
    importing("../models/flux1.ts"),
    "core code imports models code",
  ),
  plant(
    "onnx may not know the models",
    "services/gpu-node/src/onnx/a.ts",
    importing("../models/flux1.ts"),
    "onnx code imports models code",
  ),
  plant(
    "models may import onnx and core",
    "services/gpu-node/src/models/a.ts",
    importing("../onnx/graph.ts"),
  ),
  plant(
    "models may not import adapters",
    "services/gpu-node/src/models/a.ts",
    importing("../adapters/session.ts"),
    "models code imports adapters code",
  ),
  plant(
    "adapters may import generated code",
    "services/scheduler/src/adapters/a.ts",
    importing("@fluxline/proto/fluxline/v1/image_job.ts"),
  ),
  plant(
    "adapters may not import main",
    "services/scheduler/src/adapters/a.ts",
    importing("../main.ts"),
    "adapters code imports main code",
  ),
  plant(
    "main only wires: no generated code",
    "services/scheduler/src/main.ts",
    importing("@fluxline/proto/fluxline/v1/image_job.ts"),
    "main code imports proto code",
  ),
  plant(
    "the kernel imports nothing of ours",
    "services/kernel/src/a.ts",
    importing("@fluxline/platform/clock.ts"),
    "kernel code imports platform code",
  ),
  plant(
    "platform may not import a service",
    "services/platform/src/a.ts",
    importing("@fluxline/scheduler/core/job.ts"),
    "services never import each other",
  ),
  plant(
    "a service may not import another by its package",
    "services/gpu-node/src/adapters/a.ts",
    importing("@fluxline/scheduler/core/job.ts"),
    "services never import each other",
  ),
  plant(
    "a service may not import another by its path",
    "services/scheduler/src/adapters/a.ts",
    importing("../../../gpu-node/src/core/noise.ts"),
    "services never import each other",
  ),
  plant(
    "the command line imports no service",
    "services/cli/src/a.ts",
    importing("@fluxline/gpu-node/core/noise.ts"),
    "services never import each other",
  ),
  plant(
    "not by a dynamic import either",
    `${core}/a.ts`,
    'export const load = () => import("../adapters/grpc.ts");\n',
    "core code imports adapters code",
  ),
  plant(
    "nor by passing it on",
    `${core}/a.ts`,
    'export { x } from "../adapters/grpc.ts";\n',
    "core code imports adapters code",
  ),
  plant("a test beside core may", `${core}/a.test.ts`, importing("../adapters/grpc.ts")),
];

const pureCases: readonly (readonly [string, string])[] = [
  ["export const f = () => Date.now();", "Date.now"],
  ["export const f = () => new Date();", "new Date()"],
  ["export const f = () => performance.now();", "performance.now"],
  ["export const f = () => Math.random();", "Math.random"],
  ["export const f = (g: () => void) => setTimeout(g, 1);", "setTimeout"],
  ["export const f = (g: () => void) => queueMicrotask(g);", "queueMicrotask"],
  ["export const f = () => process.env.HOME;", "process"],
  ['export const f = () => console.log("x");', "console"],
  ["export const f = async (g: () => unknown) => g();", "an async function"],
  ["export const f = (g: () => number) => Promise.resolve(g());", "Promise"],
  ['import { randomUUID } from "node:crypto";\nexport const f = () => randomUUID();', "randomUUID"],
];

const purity = [
  ...pureCases.map(([code, what]) =>
    plant(`a core may not use ${what}`, `${core}/a.ts`, `${code}\n`, `it uses ${what}`),
  ),
  plant(
    "a name that only looks alike is fine",
    `${core}/a.ts`,
    "export const f = (x: { process: number; now: number }) => x.process + x.now;\n",
  ),
  plant(
    "a test beside core may wait",
    `${core}/a.test.ts`,
    "export const f = async (g: () => unknown) => g();\n",
  ),
  plant(
    "an adapter may not read the environment",
    "services/scheduler/src/adapters/a.ts",
    "export const f = () => process.env.HOME;\n",
    "the environment is read in main.ts only",
  ),
  plant(
    "main may read the environment",
    "services/gpu-node/src/main.ts",
    "export const f = () => process.env.HOME;\n",
  ),
  plant(
    "a file has at most 500 lines",
    `${core}/a.ts`,
    `${Array.from({ length: 501 }, (_, i) => `export const v${i} = ${i};`).join("\n")}\n`,
    "too many lines",
  ),
];

describe("the linter", () => {
  // Numbered, so that all plants stand in one tree and one run of the linter sees them.
  const plants = [...direction, ...purity].map((each, index) => ({
    ...each,
    path: each.path.replace(/\/a\.(test\.)?ts$/, `/a${index}.$1ts`),
  }));
  let folder = "";
  let found: readonly Diagnostic[];

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "fluxline-lint-"));
    const config = JSON.parse(readFileSync(join(root, ".oxlintrc.json"), "utf8"));
    config.jsPlugins = [join(root, "scripts/lint/plugin.mjs")];
    writeFileSync(join(folder, ".oxlintrc.json"), JSON.stringify(config));
    for (const { path, code } of plants) {
      mkdirSync(join(folder, dirname(path)), { recursive: true });
      writeFileSync(join(folder, path), code, { flag: "wx" });
    }
    found = await lint(folder);
  }, 60_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test.each(plants)("$what", ({ path, refusal }) => {
    const messages = found.filter(({ filename }) => filename === path).map((d) => d.message);
    if (refusal === undefined) expect(messages).toEqual([]);
    else expect(messages.join("\n")).toContain(refusal);
  });
});

interface Diagnostic {
  readonly filename: string;
  readonly message: string;
}

/** What the real linter says of the files in `tree`, with the configuration that lies there. */
function lint(tree: string): Promise<readonly Diagnostic[]> {
  const oxlint = join(root, "node_modules/oxlint/bin/oxlint");
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [oxlint, "--format=json"], { cwd: tree }, (error, stdout) => {
      if (stdout.trim() === "") reject(error ?? new Error("the linter printed nothing"));
      else resolve(JSON.parse(stdout).diagnostics);
    });
  });
}
