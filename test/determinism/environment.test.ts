/**
 * onnxruntime picks other attention kernels when a variable says so. Which kernels run is part of no
 * numerics class, so it is not for a node's environment to say.
 */
import { afterAll, expect, test } from "vitest";
import { runCase } from "./case-run.ts";
import { GroupPool } from "./group-pool.ts";
import { matrixCases } from "./matrix-axes.ts";
import { MatrixModels } from "./models.ts";

const VARIABLE = "ORT_DISABLE_FLASH_ATTENTION";
const SEED = 1;

// The reference loads its sessions before the variable is there.
const models = await MatrixModels.open(SEED);
const groups = new GroupPool(2);
const before = process.env[VARIABLE];

afterAll(async () => {
  if (before === undefined) delete process.env[VARIABLE];
  else process.env[VARIABLE] = before;
  await groups.close();
  await models.close();
});

test("a runner computes the same whatever kernels its environment asks for", async () => {
  const [{ source, reference, folder } = expect.unreachable()] = models.all;
  const one = matrixCases(source).find(({ name }) => name.endsWith("batch/1-plain-0"));
  process.env[VARIABLE] = "1";
  const evidence = await runCase(one ?? expect.unreachable(), { reference, folder, groups });
  expect(evidence.differences).toEqual([]);
  expect(evidence.latentsCompared).toBeGreaterThan(0);
});
