import { expect, test } from "vitest";
import { deathsMax, deathWindowMs, decideRestart, delayMsMax } from "./restart-policy.ts";

test("the first death is answered soon, each further one later", () => {
  const delays = [1, 2, 3, 4].map((deaths) => {
    const decision = decideRestart(Array.from({ length: deaths }, (_, i) => i * 100));
    return decision.kind === "restart" ? decision.delayMs : undefined;
  });
  expect(delays).toEqual([200, 400, 800, 1600]);
});

test("too many deaths in a short time end it", () => {
  const deaths = Array.from({ length: deathsMax }, (_, i) => 1_000_000 + i * 1000);
  expect(decideRestart(deaths)).toEqual({ kind: "give-up", deaths: deathsMax });
});

test("deaths long ago are forgiven", () => {
  const old = Array.from({ length: 50 }, (_, i) => i);
  expect(decideRestart([...old, deathWindowMs * 2])).toEqual({ kind: "restart", delayMs: 200 });
});

test("no delay is above the maximum", () => {
  const spread = Array.from({ length: deathsMax - 1 }, (_, i) => i);
  const decision = decideRestart(spread);
  expect(decision.kind === "restart" && decision.delayMs <= delayMsMax).toBe(true);
});
