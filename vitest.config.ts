/**
 * One vitest project per kind of proof: `unit` beside the source, the rest under test/.
 * Tests of the slower kinds run one file at a time: they start servers and runners of their own,
 * and two cores shared by two of them would only make both slower. Integration tests mostly wait for
 * leases, beats and deadlines, so two files of them share the cores.
 */
import { defineConfig } from "vitest/config";

// onnxruntime reports its use to its maker unless told not to; workers inherit this.
process.env["ORT_DISABLE_TELEMETRY"] ??= "1";

const UNIT = ["services/*/src/**/*.test.ts", "scripts/**/*.test.ts", "test/bench/**/*.test.ts"];

const slow = { fileParallelism: false, testTimeout: 120_000, hookTimeout: 120_000 };

export default defineConfig({
  test: {
    projects: [
      { test: { name: "unit", include: UNIT, testTimeout: 30_000 } },
      { test: { name: "sim", include: ["test/sim/**/*.test.ts"] } },
      { test: { name: "golden", include: ["test/golden/**/*.test.ts"], ...slow } },
      {
        test: {
          name: "integration",
          include: ["test/integration/**/*.test.ts"],
          ...slow,
          fileParallelism: true,
          maxWorkers: 2,
        },
      },
      { test: { name: "e2e", include: ["test/e2e/**/*.test.ts"], ...slow } },
      { test: { name: "chaos", include: ["test/chaos/**/*.test.ts"], ...slow } },
      { test: { name: "determinism", include: ["test/determinism/**/*.test.ts"], ...slow } },
      { test: { name: "gpu", include: ["test/gpu/**/*.test.ts"], ...slow } },
      { test: { name: "slow", include: ["test/slow/**/*.test.ts"], ...slow } },
    ],
  },
});
