/** Says, in one line of every run, whether the GPU tests run here, and if not, why. */
import { expect, test } from "vitest";
import { gpuProvider } from "./provider.ts";

const provider = await gpuProvider(process.env["FLUXLINE_GPU_PROVIDER"]);
console.log(provider.line);

test("the line says what the tests run on, or what this machine would need", () => {
  const said = provider.available
    ? /^gpu tests run on \w+: ./
    : /^gpu tests are skipped, this machine has no \w+: .+ needs ./;
  expect(provider.line).toMatch(said);
});

test("the CPU is everywhere, so that the tests themselves can be tried", async () => {
  expect(await gpuProvider("cpu")).toMatchObject({ name: "cpu", available: true });
});

test("a provider that there is not is refused by name", async () => {
  await expect(gpuProvider("abacus")).rejects.toThrow(
    "FLUXLINE_GPU_PROVIDER is abacus; use cuda, tensorrt, cpu",
  );
});
