import { createHash } from "node:crypto";
import { AppError } from "@fluxline/kernel/error.ts";
import { describe, expect, test } from "vitest";
import { JsonConfig, type JsonObject } from "./json-config.ts";
import { combineGuidance, eulerStep, makeSchedule, readScheduleRule } from "./sigmas.ts";

const FILE = "scheduler/scheduler_config.json";
const FLUX_DEV = { shift: 3, use_dynamic_shifting: true };

function rule(values: JsonObject) {
  return readScheduleRule(new JsonConfig(FILE, values));
}

const STEPS = [1, 2, 3, 4, 5, 8, 20, 28, 30, 49, 50, 77, 100];
const TOKENS = [4, 16, 64, 1024, 4096, 6000];

/** sha256 over sigmas and timesteps of every STEPS x TOKENS, as diffusers 0.42.1 computes them. */
const RULES: Record<string, [config: JsonObject, sha256: string]> = {
  "no key at all": [{}, "bc0ae13f2e9b037d60f5ac1d722397a4c5838be42ff0c91e577e6207be6e79e4"],
  "FLUX.1-dev": [FLUX_DEV, "1a44dc2602a6574fa1b4fb05fbdb3101ed9d42d7772df6a8fdeda20c547086df"],
  "FLUX.1-schnell": [
    { shift: 1 },
    "bc0ae13f2e9b037d60f5ac1d722397a4c5838be42ff0c91e577e6207be6e79e4",
  ],
  "a static shift of 3": [
    { shift: 3 },
    "e7071f710b2dc5d2ad3865ddff9608500a28a6af39dee9b1bee5b1547179a427",
  ],
  "a static shift below 1": [
    { shift: 0.7 },
    "7c49cc6fce910e5c9d720c8ae42998498e082a96438458ad91aaf5494af17081",
  ],
  "linear time shift": [
    { use_dynamic_shifting: true, time_shift_type: "linear" },
    "54eb76c5344cb018cb9ce7f02a613b951a1282683e678f597f939be266eb3986",
  ],
  "another line for mu": [
    {
      use_dynamic_shifting: true,
      base_shift: 0.3,
      max_shift: 2.1,
      base_image_seq_len: 64,
      max_image_seq_len: 1000,
    },
    "0f48319294855e4674b3b1791fe0b9ced4a73a130094cea5a30a213b93ed603e",
  ],
  "a terminal, dynamic": [
    { use_dynamic_shifting: true, shift_terminal: 0.02 },
    "b0439efb3802311445db2d55285976cb2ea5bd2ff47403773f31a011043df563",
  ],
  "a terminal, static": [
    { shift: 2.5, shift_terminal: 0.1 },
    "05dd28d66f19e6653e1ba524714986cfcc9ee1c399776eb2af9c91faa0dd7cde",
  ],
  "karras spacing": [
    { shift: 3, use_karras_sigmas: true },
    "b1c370f0ef4020dbb23b66dc2d3e514835fde28eb1f6be9afe39668167fe1b41",
  ],
  "exponential spacing": [
    { use_dynamic_shifting: true, use_exponential_sigmas: true },
    "9e00931b07df8df877f7335583fe779124f91c063bc9163eba2c2bee5d933038",
  ],
  "karras spacing between given ends": [
    { shift: 3, use_karras_sigmas: true, sigma_min: 0.02, sigma_max: 0.9 },
    "ddf254bfb9daf5c2774d7bb587dddbadad5f0f24820435a86f44795e6f477227",
  ],
  "its own range, static": [
    { shift: 3, use_flow_sigmas: true },
    "35dbb5a4d89aa1b72971964e616fd2fbc2b9c993f103ddb18b213da40cbf7315",
  ],
  "its own range, dynamic": [
    { use_dynamic_shifting: true, use_flow_sigmas: true },
    "ce8d56022ed5e4cf32b95a8a0eb6b9900de251376317dc0c5514dd4f6f0dafc7",
  ],
  "its own range of 250 timesteps": [
    { num_train_timesteps: 250, shift: 1.7, use_flow_sigmas: true },
    "86a5ff3bc704573ae111d41efa7285826c8aa7995641ff799a411da6afbf20d5",
  ],
  "inverted sigmas": [
    { shift: 3, invert_sigmas: true },
    "2ea2397ddf3be666e96e6db993811eb0788d1a40ef38d1789601d355289a1339",
  ],
  "inverted sigmas of 500 timesteps": [
    { use_dynamic_shifting: true, invert_sigmas: true, num_train_timesteps: 500 },
    "8930e8f2bb95ad6355e9184698493ca32050ac538fa1286224c2308c2594e381",
  ],
};

describe("the schedule has diffusers' bits for", () => {
  for (const [name, [config, sha256]] of Object.entries(RULES)) {
    test(name, () => {
      const hash = createHash("sha256");
      for (const steps of STEPS) {
        if (config["shift_terminal"] !== undefined && steps === 1) continue;
        for (const tokens of TOKENS) {
          const schedule = makeSchedule(rule(config), steps, tokens);
          hash.update(new Uint8Array(schedule.sigmas.buffer));
          hash.update(new Uint8Array(schedule.timesteps.buffer));
        }
      }
      expect(hash.digest("hex")).toBe(sha256);
    });
  }
});

test("four steps of FLUX.1-dev at 1024x1024", () => {
  const { sigmas, timesteps } = makeSchedule(rule(FLUX_DEV), 4, 4096);
  expect([...sigmas]).toEqual([1, 0.9045307636260986, 0.7595109343528748, 0.5128441452980042, 0]);
  expect([...timesteps]).toEqual([1000, 904.53076171875, 759.5109252929688, 512.8441162109375]);
});

test("null is absent, as in diffusers", () => {
  const config = { ...FLUX_DEV, shift_terminal: null, base_shift: null, use_karras_sigmas: null };
  expect(rule(config)).toEqual(rule(FLUX_DEV));
});

describe("refuses, with file, key and value,", () => {
  const cases: Record<string, [config: JsonObject, key: string, value: string]> = {
    "another scheduler": [{ _class_name: "DDIMScheduler" }, "_class_name", "DDIMScheduler"],
    "beta sigmas": [{ use_beta_sigmas: true }, "use_beta_sigmas", "true"],
    "stochastic sampling": [{ stochastic_sampling: true }, "stochastic_sampling", "true"],
    "two spacings": [
      { use_karras_sigmas: true, use_exponential_sigmas: true },
      "use_exponential_sigmas",
      "true",
    ],
    "a shift of 0": [{ shift: 0 }, "shift", "0"],
    "a shift that is text": [{ shift: "3" }, "shift", '"3"'],
    "another time shift": [
      { use_dynamic_shifting: true, time_shift_type: "cubic" },
      "time_shift_type",
      "cubic",
    ],
    "a line for mu without length": [
      { use_dynamic_shifting: true, base_image_seq_len: 256, max_image_seq_len: 256 },
      "max_image_seq_len",
      "256",
    ],
    "a terminal of 1": [{ shift_terminal: 1 }, "shift_terminal", "1"],
  };
  for (const [name, [config, key, value]] of Object.entries(cases)) {
    test(name, () => {
      const error = thrownBy(() => rule(config));
      expect(error.violations[0]?.field).toBe(`${FILE}: ${key}`);
      expect(error.message).toContain(value);
    });
  }

  test("one step where the schedule is stretched to a terminal", () => {
    const error = thrownBy(() => makeSchedule(rule({ shift_terminal: 0.02 }), 1, 16));
    expect(error.violations[0]?.field).toBe("num_inference_steps");
  });
});

function thrownBy(action: () => unknown): AppError {
  try {
    action();
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

test("an Euler step rounds each operation to float32", () => {
  const latents = Float32Array.of(0.1, -2, 3);
  const velocity = Float32Array.of(0.7, 1e-9, -1 / 3);
  // torch: x + (torch.tensor(0.7) - torch.tensor(0.9)) * v
  expect([...eulerStep(latents, velocity, Math.fround(0.9), Math.fround(0.7))]).toEqual([
    -0.039999984204769135, -2, 3.066666603088379,
  ]);
});

test("true guidance moves from the negative prediction through the positive one", () => {
  const positive = Float32Array.of(0.1, -2, 1 / 3);
  const negative = Float32Array.of(0.7, 1e-9, -1 / 7);
  // torch: n + 4.2 * (p - n)
  expect([...combineGuidance(positive, negative, 4.2)]).toEqual([
    -1.8199996948242188, -8.399999618530273, 1.8571428060531616,
  ]);
  expect([...combineGuidance(positive, negative, 1)]).toEqual([
    0.10000002384185791, -2, 0.3333333730697632,
  ]);
});
