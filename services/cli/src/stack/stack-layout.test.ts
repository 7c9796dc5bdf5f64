import { describe, expect, test } from "vitest";
import { type LayoutOptions, type NodeOptions, stackLayout, threadShare } from "./stack-layout.ts";

const node: NodeOptions = {
  model: "models/tiny",
  provider: "cpu",
  runType: "float32",
  stages: 1,
  groups: 1,
};

function layout(changes: Partial<NodeOptions>, cores = 8) {
  const options: LayoutOptions = {
    node: { ...node, ...changes },
    cores,
    environment: { HOME: "/home/someone" },
    logFile: (child) => `/data/logs/${child}.log`,
    natsServer: "/bin/nats-server",
    natsPort: 4222,
    natsConfig: "/data/nats.conf",
    port: 50051,
    socketFolder: "/tmp/sockets",
  };
  return stackLayout(options);
}

const names = (changes: Partial<NodeOptions>) =>
  layout(changes).groups.map((ranks) => ranks.map(({ name }) => name));

/** What follows `option` on a command line; undefined if it is not there. */
function valueOf(args: readonly string[], option: string): string | undefined {
  const at = args.indexOf(option);
  return at < 0 ? undefined : args[at + 1];
}

test.each([
  [8, 1, 8],
  [8, 2, 4],
  [8, 3, 2],
  [2, 4, 1],
])("%d cores over %d processes: %d threads each", (cores, processes, threads) => {
  expect(threadShare(cores, processes)).toBe(threads);
});

test("one group of one stage is one process, and knows nothing of links", () => {
  expect(names({})).toEqual([["gpu-node g0 driver"]]);
  const driver = layout({}).groups[0]![0]!;
  expect(driver.args).not.toContain("--stages");
  expect(valueOf(driver.args, "--threads")).toBe("8");
});

test("groups of stages are a driver and its stages each", () => {
  expect(names({ stages: 3, groups: 2 })).toEqual([
    ["gpu-node g0 driver", "gpu-node g0 stage 1", "gpu-node g0 stage 2"],
    ["gpu-node g1 driver", "gpu-node g1 stage 1", "gpu-node g1 stage 2"],
  ]);
});

describe("the processes of a group of three stages", () => {
  const [driver, ...stages] = layout({ stages: 3, groups: 2, threads: 5 }).groups[1]!;
  const addresses = ["unix:/tmp/sockets/g1-1.sock", "unix:/tmp/sockets/g1-2.sock"];
  test("share group, model and threads", () => {
    for (const { args } of [driver!, ...stages]) {
      expect(valueOf(args, "--group")).toBe("g1");
      expect(valueOf(args, "--stages")).toBe("3");
      expect(valueOf(args, "--model")).toBe("models/tiny");
      expect(valueOf(args, "--threads")).toBe("5");
      expect(args).toContain("--exit-with-parent");
    }
  });
  test("the driver is told where each stage listens", () => {
    expect(valueOf(driver!.args, "--stage-addresses")).toBe(addresses.join(","));
    expect(stages.map(({ args }) => valueOf(args, "--listen"))).toEqual(addresses);
    expect(stages.map(({ args }) => valueOf(args, "--rank"))).toEqual(["1", "2"]);
  });
  test("get only what they know of the rest", () => {
    const rest = {
      cuts: "3,5",
      sequential: "t5,vae",
      decodeTile: "512",
      simulatedStepSeconds: "0.2",
      maxBatch: "2",
      maxResidents: "6",
      maxStepsInFlight: "3",
      checkpointEveryMs: "0",
    };
    const [first, second] = layout({ stages: 2, ...rest }).groups[0]!;
    expect(valueOf(first!.args, "--cuts")).toBe("3,5");
    expect(valueOf(second!.args, "--cuts")).toBe("3,5");
    for (const { args } of [first!, second!]) {
      expect(valueOf(args, "--sequential")).toBe("t5,vae");
      expect(valueOf(args, "--decode-tile")).toBe("512");
    }
    expect(valueOf(first!.args, "--max-batch")).toBe("2");
    expect(valueOf(first!.args, "--max-residents")).toBe("6");
    expect(valueOf(second!.args, "--simulated-step-seconds")).toBe("0.2");
    expect(valueOf(first!.args, "--max-steps-in-flight")).toBe("3");
    expect(valueOf(first!.args, "--checkpoint-every-ms")).toBe("0");
    expect(second!.args).not.toContain("--max-residents");
    expect(driver!.args).not.toContain("--cuts");
  });
  test("are as many as the devices that are told, and all are told of them", () => {
    const devices = {
      stages: undefined,
      devices: "2x24GiB,H100",
      maxSize: "512x512",
      maxBatch: "2",
    };
    const ranks = layout(devices).groups[0]!;
    expect(ranks).toHaveLength(3);
    for (const { args } of ranks) {
      expect(valueOf(args, "--stages")).toBe("3");
      expect(valueOf(args, "--devices")).toBe("2x24GiB,H100");
      expect(valueOf(args, "--max-size")).toBe("512x512");
      expect(valueOf(args, "--max-batch")).toBe("2");
    }
  });
  test("have log files without spaces in their names", () => {
    expect(stages.at(-1)!.logFile).toBe("/data/logs/gpu-node-g1-stage-2.log");
  });
});
