/**
 * Whole command lines in this process, against a real gRPC server whose answers are scripted: what
 * is asked, what is printed where, and how it ends. The real server is test/e2e's.
 */
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, Readable } from "node:stream";
import { AppError, invalidArgument } from "@fluxline/kernel/error.ts";
import { type GrpcServer, type Handlers, serveGrpc } from "@fluxline/platform/grpc/server.ts";
import { toStatus } from "@fluxline/platform/grpc/status.ts";
import {
  ImageJob,
  ImageJob_State,
  Preview,
  Progress_Phase,
} from "@fluxline/proto/fluxline/v1/image_job.ts";
import {
  type GenerateImageRequest,
  GenerateImageResponse,
  ImageJobEvent,
  ImageServiceService,
} from "@fluxline/proto/fluxline/v1/image_service.ts";
import { Pool } from "@fluxline/proto/fluxline/v1/pool.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { runCommandLine } from "./command-line.ts";
import type { Session } from "./session.ts";

type AllHandlers = Handlers<typeof ImageServiceService>;

let folder = "";
let server: GrpcServer | undefined;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-cli-"));
});
afterEach(async () => {
  await server?.drain(1000);
  server = undefined;
  rmSync(folder, { recursive: true, force: true });
});

const notScripted = async (): Promise<never> => {
  throw new AppError("unimplemented", "this test does not expect that call");
};

async function serve(handlers: Partial<AllHandlers>): Promise<string> {
  const names = Object.keys(ImageServiceService);
  const all = Object.fromEntries(names.map((name) => [name, notScripted]));
  server = await serveGrpc(
    {
      name: "fluxline.v1.ImageService",
      service: ImageServiceService,
      handlers: { ...all, ...handlers } as AllHandlers,
      requestBytesMax: 1024 * 1024,
    },
    "127.0.0.1:0",
  );
  return server.address;
}

async function fluxline(argv: readonly string[], stdin = "") {
  const said = { stdout: "", stderr: "" };
  const stream = (name: "stdout" | "stderr") => {
    const sink = new PassThrough();
    sink.on("data", (chunk: Buffer) => (said[name] += chunk.toString()));
    return sink;
  };
  const session: Session = {
    stdout: stream("stdout"),
    stderr: stream("stderr"),
    stdin: Readable.from([Buffer.from(stdin, "latin1")]),
    interrupted: new AbortController().signal,
    environment: {},
    natsServer: join(folder, "no-nats-server"),
    searchPath: [],
    onExit: () => undefined,
  };
  const code = await runCommandLine(argv, session);
  await new Promise((resolve) => setImmediate(resolve));
  return { code, ...said };
}

const file = Buffer.from("not really a picture");
const sha256 = createHash("sha256").update(file).digest("hex");

const jobIn = (state: ImageJob_State, more: Partial<ImageJob> = {}) =>
  ImageJob.fromPartial({
    name: "pools/default/jobs/01",
    state,
    spec: { prompt: "a red circle", width: 64, height: 64, numInferenceSteps: 4, seed: 42n },
    ...more,
  });
const done = jobIn(ImageJob_State.STATE_SUCCEEDED, {
  images: [{ index: 0, seed: 42n, sha256, sizeBytes: BigInt(file.length) } as never],
  advisories: [{ reason: "FEW_STEPS", field: "num_inference_steps", message: "4 steps blur" }],
});
const event = (job: ImageJob): GenerateImageResponse =>
  GenerateImageResponse.fromPartial({
    event: { $case: "jobEvent", value: { revision: 1n, job } },
  });
const chunk = (offset: number, bytes: Buffer): GenerateImageResponse =>
  GenerateImageResponse.fromPartial({
    event: { $case: "imageChunk", value: { index: 0, offset: BigInt(offset), chunk: bytes } },
  });

const previewed = { previewCount: 2, numInferenceSteps: 9, seed: 42n } as const;
const preview = (step: number, index = 0) =>
  Preview.fromPartial({
    index,
    step,
    width: 8,
    height: 8,
    content: Buffer.from(`${index}:${step}`),
  });
const previewEvent = (step: number, index = 0): GenerateImageResponse =>
  GenerateImageResponse.fromPartial({
    event: { $case: "preview", value: preview(step, index) },
  });

/** A GenerateImage that answers with these messages, and keeps what it was asked. */
function scripted(answers: readonly GenerateImageResponse[]) {
  const asked: GenerateImageRequest[] = [];
  const generateImage: AllHandlers["generateImage"] = async (request, writer) => {
    asked.push(request);
    for (const answer of answers) await writer.write(answer);
  };
  return { asked, generateImage };
}

describe("generate --server", () => {
  test("writes the picture, prints its name on stdout and the rest on stderr", async () => {
    const stepping = jobIn(ImageJob_State.STATE_RUNNING, {
      progress: { phase: Progress_Phase.PHASE_DENOISING, step: 2, totalSteps: 4 } as never,
    });
    const { generateImage } = scripted([
      event(jobIn(ImageJob_State.STATE_QUEUED)),
      event(stepping),
      event(done),
      chunk(0, file.subarray(0, 7)),
      chunk(7, file.subarray(7)),
    ]);
    const at = await serve({ generateImage });
    const output = join(folder, "a.png");
    const result = await fluxline(["generate", "x", "--server", at, "--output", output]);
    expect(result).toMatchObject({ code: 0, stdout: `${output}\n` });
    expect(readFileSync(output)).toEqual(file);
    for (const text of ["queued", "step 2 of 4", "4 steps blur", "seed 42"]) {
      expect(result.stderr).toContain(text);
    }
  });

  test("sends what was said, and nothing that was not", async () => {
    const { asked, generateImage } = scripted([event(done), chunk(0, file)]);
    const at = await serve({ generateImage });
    const options = "--steps 4 --width 96 --seed 18446744073709551615 --guidance nan".split(" ");
    const more = ["--negative-prompt", "", "--true-cfg-scale", "2", "--format", "webp"];
    const output = ["--output", join(folder, "a.webp")];
    const argv = ["generate", "a red circle", "--server", at, ...options, ...more, ...output];
    expect((await fluxline(argv)).code).toBe(0);
    expect(asked[0]?.spec).toMatchObject({
      prompt: "a red circle",
      prompt2: undefined,
      negativePrompt: "",
      trueCfgScale: 2,
      numInferenceSteps: 4,
      guidanceScale: Number.NaN,
      width: 96,
      height: undefined,
      seed: 2n ** 64n - 1n,
      imageCount: undefined,
      outputFormat: 3,
    });
    expect(asked[0]?.requestId).toMatch(/^[0-9a-f-]{36}$/);
  });

  test("with --json prints one JSON object a line, the result last", async () => {
    const { generateImage } = scripted([event(done), chunk(0, file)]);
    const at = await serve({ generateImage });
    const output = join(folder, "a.png");
    const argv = ["generate", "x", "--server", at, "--output", output, "--json"];
    const { stdout, stderr } = await fluxline(argv);
    const lines = stdout.trimEnd().split("\n");
    const events = lines.map((line): { event: string } => JSON.parse(line));
    expect(events.map((each) => each.event)).toEqual(["job", "result"]);
    expect(events.at(-1)).toMatchObject({ files: [output], job: { name: done.name } });
    expect(stderr).toBe("");
  });

  test("reads a prompt of any length from stdin", async () => {
    const { asked, generateImage } = scripted([event(done), chunk(0, file)]);
    const at = await serve({ generateImage });
    const argv = ["generate", "-", "--server", at, "--output", join(folder, "a.png")];
    await fluxline(argv, "a blue square\n");
    expect(asked[0]?.spec?.prompt).toBe("a blue square");
  });

  test.each([
    [
      "a chunk is missing",
      [event(done), chunk(0, file.subarray(0, 5)), chunk(9, file)],
      "CHUNK_OUT_OF_PLACE",
    ],
    ["the end is missing", [event(done), chunk(0, file.subarray(0, 5))], "CHECKSUM_MISMATCH"],
    [
      "a byte is wrong",
      [event(done), chunk(0, Buffer.from(file).fill(1, 3, 4))],
      "CHECKSUM_MISMATCH",
    ],
    [
      "the job failed",
      [
        event(
          jobIn(ImageJob_State.STATE_FAILED, {
            error: toStatus(new AppError("resource_exhausted", "no memory", { reason: "OOM" })),
          }),
        ),
      ],
      "OOM",
    ],
  ])("leaves no file when %s", async (_, answers, reason) => {
    const at = await serve(scripted(answers));
    const output = join(folder, "a.png");
    const argv = ["generate", "x", "--server", at, "--output", output, "--json"];
    const { code, stderr } = await fluxline(argv);
    expect(code).toBe(1);
    expect(JSON.parse(stderr)).toMatchObject({ error: { reason } });
    expect(existsSync(output)).toBe(false);
  });

  test("shows every wrong field with its way out", async () => {
    const violations = [
      { field: "spec.width", description: "is 65; use 64" },
      { field: "spec.num_inference_steps", description: "is 0; use 1 or more" },
    ];
    const at = await serve({
      generateImage: async () => {
        throw invalidArgument(violations);
      },
    });
    const { code, stderr } = await fluxline(["generate", "x", "--server", at]);
    expect(code).toBe(1);
    for (const text of ["--width: is 65; use 64", "--steps: is 0; use 1 or more"]) {
      expect(stderr).toContain(text);
    }
  });

  test("says what to do when no server answers", async () => {
    const { code, stderr } = await fluxline(["generate", "x", "--server", "127.0.0.1:1"]);
    expect(code).toBe(1);
    expect(stderr).toContain("no Fluxline server answers at 127.0.0.1:1");
    expect(stderr).toContain("fluxline up");
  });
});

describe("generate --previews", () => {
  const running = jobIn(ImageJob_State.STATE_RUNNING, { spec: previewed as never });
  const read = (name: string): string => readFileSync(join(folder, name), "utf8");

  async function generate(answers: readonly GenerateImageResponse[], ...more: string[]) {
    const { asked, generateImage } = scripted([
      event(running),
      ...answers,
      event(done),
      chunk(0, file),
    ]);
    const at = await serve({ generateImage });
    const output = ["--output", join(folder, "a.png")];
    const argv = ["generate", "x", "--server", at, "--previews", "2", ...output, ...more];
    return { asked, ...(await fluxline(argv)) };
  }

  test("asks for them and writes each beside the picture, by its number", async () => {
    const { asked, code, stderr } = await generate([previewEvent(3), previewEvent(6)]);
    expect(code).toBe(0);
    expect(asked[0]?.spec?.previewCount).toBe(2);
    expect(readdirSync(folder).sort()).toEqual(["a-preview-01.png", "a-preview-02.png", "a.png"]);
    expect([read("a-preview-01.png"), read("a-preview-02.png")]).toEqual(["0:3", "0:6"]);
    const where = join(folder, "a-preview-02.png");
    expect(stderr).toContain(`preview 2 of 2, after step 6: ${where}`);
  });

  test("one that comes again replaces its own file, and no other", async () => {
    writeFileSync(join(folder, "a-preview-02.png"), "mine");
    await generate([previewEvent(6), previewEvent(6)]);
    expect(read("a-preview-02.png")).toBe("mine");
    expect(readdirSync(folder).sort()).toEqual(["a-preview-02.2.png", "a-preview-02.png", "a.png"]);
  });

  test("into a folder of its own; of several pictures each by its number", async () => {
    const previews = join(folder, "previews");
    mkdirSync(previews);
    const answers = [previewEvent(3, 0), previewEvent(3, 1)];
    const { code } = await generate(answers, "--preview-dir", previews, "--count", "2");
    expect(code).toBe(0);
    expect(readdirSync(previews).sort()).toEqual(["a-0-preview-01.png", "a-1-preview-01.png"]);
  });

  test("with --json each is a line that names its file", async () => {
    const { stdout } = await generate([previewEvent(3)], "--json");
    const lines = stdout.trimEnd().split("\n");
    const shown = lines.map((line): { event: string } => JSON.parse(line));
    expect(shown.find((each) => each.event === "preview")).toEqual({
      event: "preview",
      index: 0,
      step: 3,
      width: 8,
      height: 8,
      file: join(folder, "a-preview-01.png"),
      number: 1,
      total: 2,
    });
  });
});

describe("generate refuses before anything starts", () => {
  test.each([
    ["a server that is no address", ["--server", "nowhere"], 2, "--server: is"],
    ["bytes that are not UTF-8", ["--prompt-2", "a\uFFFDb"], 2, "U+FFFD at character 1"],
    ["a missing folder", ["--output", "no/such/folder/a.png"], 2, "does not exist; make it"],
    ["two formats", ["--format", "jpeg", "--output", "a.png"], 2, "--format: is jpeg"],
    ["a model and a server", ["--server", "a:1", "--model", "b"], 2, "cannot be used with"],
    ["a word for a number", ["--steps", "many"], 2, "like 20"],
    ["no steps", ["--steps", "0"], 2, "from 1 to"],
    ["a size below 0", ["--width", "-64"], 2, "from 1 to"],
    ["negative guidance", ["--guidance", "-1"], 2, "0 or more"],
    ["too many previews", ["--previews", "17"], 2, "from 0 to 16"],
    ["a folder for no previews", ["--preview-dir", "."], 2, "without --previews"],
    ["a missing folder for previews", ["--previews", "1", "--preview-dir", "no"], 2, "make it"],
    ["an option that is none", ["--stepz", "1"], 2, "Did you mean --steps"],
    ["a format that is none", ["--format", "gif"], 2, "png, jpeg, webp"],
    ["a nats-server that is none", [], 1, "FLUXLINE_NATS_SERVER"],
  ])("%s", async (_, options, code, words) => {
    const result = await fluxline(["generate", "x", ...options]);
    expect(result.stderr).toContain(words);
    expect(result.code).toBe(code);
  });

  test("a file that exists, and what is in it stays", async () => {
    const output = join(folder, "a.png");
    writeFileSync(output, "mine");
    const { code, stderr } = await fluxline(["generate", "x", "--output", output]);
    expect(code).toBe(2);
    expect(stderr).toContain("add --overwrite");
    expect(readFileSync(output, "utf8")).toBe("mine");
  });

  test("as one JSON object where that was asked for", async () => {
    const { code, stderr } = await fluxline(["generate", "x", "--server", "nowhere", "--json"]);
    expect(code).toBe(2);
    expect(JSON.parse(stderr)).toMatchObject({ error: { reason: "INVALID_SERVER" } });
  });

  test("a prompt on stdin that is not UTF-8", async () => {
    const { code, stderr } = await fluxline(["generate", "-"], "caf\xE9");
    expect(code).toBe(2);
    expect(stderr).toContain("PROMPT: holds bytes that are not UTF-8");
  });
});

describe("jobs", () => {
  const pools = { listPools: async () => ({ pools: [pool("default")], nextPageToken: "" }) };
  const pool = (id: string) => Pool.fromPartial({ name: `pools/${id}` });

  test("list reads page after page up to its limit", async () => {
    const asked: number[] = [];
    const at = await serve({
      ...pools,
      listImageJobs: async ({ pageSize, pageToken }) => {
        asked.push(pageSize);
        const jobs = Array.from({ length: Math.min(2, pageSize) }, () => done);
        return { jobs, nextPageToken: `${pageToken}x` };
      },
    });
    const { code, stdout } = await fluxline(["jobs", "list", "--server", at, "--limit", "5"]);
    expect(code).toBe(0);
    expect(asked).toEqual([5, 3, 1]);
    expect(stdout.split("\n").filter((line) => line.includes("a red circle"))).toHaveLength(5);
  });

  test("get completes an id to a name", async () => {
    const at = await serve({
      ...pools,
      getImageJob: async ({ name }) => ({ ...done, name }),
    });
    const { stdout } = await fluxline(["jobs", "get", "77", "--server", at, "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({ name: "pools/default/jobs/77" });
  });

  test("with several pools an id needs one", async () => {
    const both = { pools: [pool("a"), pool("b")], nextPageToken: "" };
    const at = await serve({ listPools: async () => both });
    const { code, stderr } = await fluxline(["jobs", "cancel", "77", "--server", at]);
    expect(code).toBe(1);
    expect(stderr).toContain("use one of a, b");
  });

  test("watch writes previews into the folder that is named, and none without", async () => {
    const running = jobIn(ImageJob_State.STATE_RUNNING, { spec: previewed as never });
    const watchImageJob: AllHandlers["watchImageJob"] = async (_, writer) => {
      await writer.write({ revision: 5n, job: running, preview: undefined });
      await writer.write({ revision: 5n, job: running, preview: preview(3) });
      await writer.write({ revision: 6n, job: done, preview: undefined });
    };
    const at = await serve({ ...pools, watchImageJob });
    const argv = ["jobs", "watch", "01", "--server", at];
    const { code, stderr } = await fluxline([...argv, "--preview-dir", folder]);
    expect(code).toBe(0);
    expect(readdirSync(folder)).toEqual(["fluxline-42-preview-01.png"]);
    expect(stderr).toContain("preview 1 of 2, after step 3");
    expect((await fluxline(argv)).code).toBe(0);
    expect(readdirSync(folder)).toHaveLength(1);
    expect((await fluxline([...argv, "--preview-dir", "none"])).code).toBe(2);
  });

  test("a server that is no address is refused with exit code 2", async () => {
    const { code, stderr } = await fluxline(["jobs", "list", "--server", "nowhere"]);
    expect(code).toBe(2);
    expect(stderr).toContain("--server: is");
  });

  test("watch goes on after the connection broke, from where it was", async () => {
    const resumed: bigint[] = [];
    const at = await serve({
      ...pools,
      watchImageJob: async ({ resumeRevision }, writer) => {
        resumed.push(resumeRevision);
        if (resumeRevision > 0n) {
          return writer.write(ImageJobEvent.fromPartial({ revision: 9n, job: done }));
        }
        const job = jobIn(ImageJob_State.STATE_QUEUED);
        await writer.write(ImageJobEvent.fromPartial({ revision: 5n, job }));
        throw new AppError("unavailable", "going away", { reason: "SHUTTING_DOWN" });
      },
    });
    const { code, stdout, stderr } = await fluxline(["jobs", "watch", "01", "--server", at]);
    expect({ code, resumed }).toEqual({ code: 0, resumed: [0n, 5n] });
    expect(stderr).toContain("the connection broke");
    expect(stdout).toContain("succeeded");
  });
});

test("--version prints the version of the package", async () => {
  const text = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  const { version } = JSON.parse(text) as { version: string };
  expect(await fluxline(["--version"])).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
});

describe("help", () => {
  test.each([
    [[]],
    [["generate"]],
    [["up"]],
    [["jobs"]],
    [["model"]],
    [["model", "inspect"]],
    [["model", "pull"]],
    [["plan"]],
  ])("%j teaches by example", async (command) => {
    const { code, stdout } = await fluxline([...command, "--help"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/Examples?:/);
  });
});
