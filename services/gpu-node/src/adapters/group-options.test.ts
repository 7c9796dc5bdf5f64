/** The command lines of the ranks of a group: what is read, and what is refused with its name. */
import { AppError } from "@fluxline/kernel/error.ts";
import { describe, expect, test } from "vitest";
import { parseGroupOptions } from "./group-options.ts";
import { linkAddressText } from "./stage-link/link-address.ts";
import { parseStageOptions } from "./stage-options.ts";

const MODEL = ["--model", "/models/flux"];
const TWO = [...MODEL, "--stages", "2"];
const STAGE = [...TWO, "--rank", "1", "--listen", "unix:/run/1.sock"];

function refusal(parse: () => unknown): string[] {
  try {
    parse();
  } catch (thrown) {
    if (thrown instanceof AppError && thrown.reason === "INVALID_OPTIONS") {
      return thrown.violations.map(({ field, description }) => `${field} ${description}`);
    }
    throw thrown;
  }
  return [];
}

describe("stage addresses", () => {
  const addresses = (...argv: string[]) =>
    parseGroupOptions([...MODEL, ...argv], 2).stageAddresses.map(linkAddressText);

  test("are listed by rank", () => {
    const list = "unix:/run/1.sock,tcp://host:7400";
    expect(addresses("--stages", "3", "--stage-addresses", list)).toEqual(list.split(","));
  });

  test("are made from a template with the number of the rank", () => {
    const template = "tcp://g0-{rank}.pool:7400";
    expect(addresses("--stages", "3", "--stage-address-template", template)).toEqual([
      "tcp://g0-1.pool:7400",
      "tcp://g0-2.pool:7400",
    ]);
  });

  test("are none for a group of one stage", () => {
    expect(addresses()).toEqual([]);
  });
});

test("sequential parts and tiles are read alike for every rank, and are none unless given", () => {
  const given = ["--sequential", "t5,vae", "--decode-tile", "512"];
  const serve = parseGroupOptions([...TWO, "--stage-addresses", "unix:/1", ...given], 2);
  for (const options of [serve, parseStageOptions([...STAGE, ...given], 2)]) {
    expect(options).toMatchObject({ sequential: new Set(["t5", "vae"]), decodeTile: 512 });
  }
  const plain = parseGroupOptions(MODEL, 2);
  expect(plain).toMatchObject({ sequential: new Set(), decodeTile: undefined });
});

describe("the run type", () => {
  const runType = (...argv: string[]) => parseGroupOptions([...MODEL, ...argv], 2).runType;

  test("is float32, unless another is named", () => {
    expect(runType()).toBe("float32");
    for (const type of ["float16", "bfloat16", "int8"]) {
      expect(runType("--run-type", type, "--provider", "cuda")).toBe(type);
    }
  });

  test("int8 is refused where there is no operator for it, and so is an unknown one", () => {
    const tensorrt = ["--run-type", "int8", "--provider", "tensorrt"];
    expect(refusal(() => runType(...tensorrt))).toEqual([
      "--run-type is int8, which provider tensorrt lacks; use provider cuda",
    ]);
    expect(refusal(() => runType("--run-type", "bfloat16"))).toEqual([
      "--run-type is bfloat16, in which provider cpu does not compute; use float32, int8 or float16",
    ]);
    expect(refusal(() => runType("--run-type", "int4"))).toEqual([
      "--run-type is int4; use float32, float16, bfloat16, int8",
    ]);
  });
});

test("cuts, places and links are read alike for every rank", () => {
  const shared = ["--cuts", "3", "--place", "clip=0,t5=1,vae=cpu", "--link-certificate", "/c.pem"];
  shared.push("--link-key", "/k.pem", "--link-authority", "/a.pem", "--link-peer-names", "a,b");
  const serve = parseGroupOptions([...TWO, "--stage-addresses", "unix:/1", ...shared], 2);
  const stage = parseStageOptions([...STAGE, ...shared], 2);
  for (const { cuts, places, security } of [serve, stage]) {
    expect(cuts).toEqual([3]);
    expect([...places]).toEqual([
      ["clip", 0],
      ["t5", 1],
      ["vae", "cpu"],
    ]);
    expect(security).toEqual({
      certificateFile: "/c.pem",
      keyFile: "/k.pem",
      authorityFile: "/a.pem",
      peerNames: ["a", "b"],
    });
  }
  expect(stage).toMatchObject({
    rank: 1,
    stages: 2,
    listen: { kind: "unix", path: "/run/1.sock" },
  });
});

describe("what is wrong is named", () => {
  test.each<[string, string[], string[]]>([
    ["addresses that are missing", TWO, ["--stage-addresses is missing; 2 stages need 1"]],
    [
      "addresses too many",
      [...TWO, "--stage-addresses", "unix:/1,unix:/2"],
      ["--stage-addresses has 2 addresses; 2 stages need 1"],
    ],
    [
      "addresses without stages",
      [...MODEL, "--stage-addresses", "unix:/1"],
      ["--stage-addresses is given, and --stages is 1"],
    ],
    [
      "a list beside a template",
      [...TWO, "--stage-addresses", "unix:/1", "--stage-address-template", "tcp://{rank}:1"],
      ["--stage-address-template stands beside --stage-addresses"],
    ],
    [
      "a template without a rank",
      [...TWO, "--stage-address-template", "tcp://host:7400"],
      ['--stage-address-template is "tcp://host:7400"; put {rank}'],
    ],
    [
      "an address that is none",
      [...TWO, "--stage-addresses", "host:7400"],
      ['--stage-addresses is "host:7400"; use unix:'],
    ],
    [
      "a kind of GPU for a CPU",
      [...MODEL, "--device-class", "h100"],
      ["--device-class is for GPUs"],
    ],
    ["a tile that is mostly overlap", [...MODEL, "--decode-tile", "64"], ["--decode-tile is 64"]],
    ["a tile of no whole cells", [...MODEL, "--decode-tile", "200"], ["--decode-tile is 200"]],
    [
      "devices, sizes and rates that are none",
      [...MODEL, "--devices", "2x24,0xH100", "--max-size", "1000x1000", "--link-gbit", "0"],
      ["--link-gbit is 0", '--max-size is "1000x1000"', '--devices has "2x24"', "--devices has"],
    ],
    [
      "other stages than devices",
      [...MODEL, "--devices", "2x24GiB", "--stages", "3"],
      ["--stages is 3; --devices has 2", "--stage-addresses is missing; 3 stages need 2"],
    ],
    [
      "several at once",
      ["--stages", "0", "--cuts", "x", "--place", "t5=gpu,vae=0,vae=1", "--link-key", "/k"],
      [
        "--model is missing",
        "--stages is 0; use 1 to",
        '--cuts is "x"',
        '--place has "t5=gpu"',
        "--place names vae twice",
        "--link-certificate is missing beside --link-key",
        "--link-authority is missing beside --link-key",
      ],
    ],
  ])("serve: %s", (_, argv, words) => {
    const found = refusal(() => parseGroupOptions(argv, 2));
    expect(found).toHaveLength(words.length);
    for (const [i, text] of words.entries()) expect(found[i]).toContain(text);
  });

  test.each<[string, string[], string[]]>([
    ["rank and address that are missing", TWO, ["--rank is missing", "--listen is missing"]],
    [
      "the rank of the driver",
      [...TWO, "--rank", "0", "--listen", "unix:/1"],
      ["--rank is 0; use 1 to 1"],
    ],
    [
      "a group of one stage",
      [...MODEL, "--rank", "1", "--listen", "unix:/1"],
      ["--stages is 1; a group with stages beside rank 0 has 2"],
    ],
  ])("stage: %s", (_, argv, words) => {
    const found = refusal(() => parseStageOptions(argv, 2));
    expect(found).toHaveLength(words.length);
    for (const [i, text] of words.entries()) expect(found[i]).toContain(text);
  });

  test("an option that belongs to the other command", () => {
    expect(() => parseStageOptions([...STAGE, "--nats", "x"], 2)).toThrow("--nats");
  });
});
