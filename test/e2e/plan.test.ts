/**
 * `fluxline plan` on the geometry of FLUX.1-dev: what a person reads, the exit codes, and that every
 * change it proposes does fit. The tables of docs/sizing.md are what it prints: after a change of the
 * planner run `npx vitest run --project e2e test/e2e/plan.test.ts -u`, and look at them.
 */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { fluxline, repository } from "../support/command.ts";

const geometry = "docs/examples/flux1-dev-geometry";
const page = `${repository}docs/sizing.md`;
const [BEGIN, END] = ["<!-- plans: begin -->", "<!-- plans: end -->"];

const TABLES = [
  "--devices 1x24GiB",
  "--devices 1x24GiB --dtype int8",
  "--devices 2x24GiB",
  "--devices 4x16GiB",
  "--devices 8x16GiB",
  "--devices 1x80GiB",
  "--devices 1x141GiB",
  "--devices 1xH200",
];

const plan = (options: string) => fluxline(["plan", geometry, ...options.split(" ")]);

test("docs/sizing.md has the tables that the command prints", async () => {
  const sections: string[] = [];
  for (const options of TABLES) {
    const { code, stdout, stderr } = await plan(options);
    expect(stderr).toBe("");
    const command = `$ fluxline plan ${geometry} ${options}`;
    sections.push(`\`\`\`text\n${command}\n${stdout.trimEnd()}\n\nexit code ${code}\n\`\`\``);
  }
  const before = readFileSync(page, "utf8");
  const [head, rest = ""] = before.split(BEGIN);
  const [, tail] = rest.split(END);
  expect(tail, `${page} lacks ${BEGIN} and ${END}`).toBeDefined();
  const after = `${head}${BEGIN}\n\n${sections.join("\n\n")}\n\n${END}${tail}`;
  await expect(after).toMatchFileSnapshot(page);
});

describe("what does not fit", () => {
  /** The options of each line below "each of these alone would do". */
  function proposals(stdout: string): string[] {
    const listed = stdout.split("would do (planned, and fits):\n")[1] ?? "";
    return listed
      .trimEnd()
      .split("\n")
      .map((line) => line.trim());
  }

  test("ends with code 1, the shortfall, and changes of which each fits", async () => {
    const { code, stdout } = await plan("--devices 1x24GiB");
    expect(code).toBe(1);
    expect(stdout).toMatch(/rank 0 \(24 GiB\) lacks 2\.\d GiB, with 3% kept free/);
    const [dtype, device, memory] = proposals(stdout);
    expect((await plan(`--devices 1x24GiB ${dtype}`)).code).toBe(0);
    expect(device).toBe("one more device of 24 GiB");
    expect((await plan("--devices 2x24GiB")).code).toBe(0);
    const [, enough] = /: ([\d.]+) GiB$/.exec(memory ?? "")!;
    expect((await plan(`--devices 1x${enough}GiB`)).code).toBe(0);
    const less = (Number(enough) - 0.2).toFixed(1);
    expect((await plan(`--devices 1x${less}GiB`)).code).toBe(1);
  });

  test("is made to fit by the largest batch, then the largest size, that would", async () => {
    const tight = "--devices 2x16GiB --max-batch 8";
    const { code, stdout } = await plan(tight);
    expect(code).toBe(1);
    const [batch] = proposals(stdout);
    const rows = Number(/^--max-batch (\d)$/.exec(batch!)![1]);
    expect((await plan(`--devices 2x16GiB --max-batch ${rows}`)).code).toBe(0);
    expect((await plan(`--devices 2x16GiB --max-batch ${rows + 1}`)).code).toBe(1);
  });
});

test("--json has everything, and the exit code is the same", async () => {
  const good = await plan("--devices 2xH100 --json");
  expect(good.code).toBe(0);
  const document = JSON.parse(good.stdout);
  expect(document).toMatchObject({ fits: true, dtype: "bfloat16", changes: [], decodeTile: 0 });
  expect(document.stages).toHaveLength(2);
  expect(document.memory).toHaveLength(2);
  expect(document.pace.imagesPerMinute).toBeGreaterThan(20);
  const bad = await plan("--devices 1x8GiB --json");
  expect(bad.code).toBe(1);
  expect(JSON.parse(bad.stdout)).toMatchObject({ fits: false });
});

describe("bad input", () => {
  test("is named all at once", async () => {
    const { code, stdout, stderr } = await plan(
      "--devices 2x24,0xH100 --dtype fp8 --max-size 1000x1000 --max-batch 0 --link-gbit x",
    );
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    for (const field of [
      '--devices: has "2x24"',
      '--devices: has "0xH100"',
      "--dtype: is fp8",
      '--max-size: is "1000x1000"',
      "--max-batch: is 0",
      "--link-gbit: is x",
    ]) {
      expect(stderr).toContain(field);
    }
  });

  test.each([
    [["plan", geometry, "--devices", "58x24GiB"], 1, "use 1 to 57"],
    [["plan", "docs", "--devices", "1x24GiB"], 1, "model_index.json"],
    [["plan", geometry], 2, "--devices"],
    [["plan", geometry, "--devices", "1x24GiB", "--provider", "npu"], 2, "Allowed choices"],
  ])("%j ends with code %d", async (argv, wanted, text) => {
    const { code, stderr } = await fluxline(argv);
    expect({ code, stderr }).toEqual({ code: wanted, stderr: expect.stringContaining(text) });
  });
});
