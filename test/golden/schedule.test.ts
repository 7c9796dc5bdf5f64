/** Sigmas and timesteps are diffusers', to the last bit. */
import { JsonConfig } from "@fluxline/gpu-node/core/json-config.ts";
import { makeSchedule, readScheduleRule, shiftExponent } from "@fluxline/gpu-node/core/sigmas.ts";
import { describe, expect, test } from "vitest";
import { schedules } from "./golden-data.ts";

describe.for(Object.entries(schedules.configs))("scheduler %s", ([name, config]) => {
  const rule = readScheduleRule(new JsonConfig("scheduler_config.json", config));
  const cases = schedules.cases.filter((candidate) => candidate.config === name);

  test("has cases", () => expect(cases.length).toBeGreaterThan(0));

  test.for(cases)("$steps steps, $width x $height", ({ steps, tokens, mu, sigmas, timesteps }) => {
    if (rule.dynamicShift !== undefined) {
      expect(shiftExponent(rule.dynamicShift, tokens)).toBeCloseTo(mu, 14);
    }
    const schedule = makeSchedule(rule, steps, tokens);
    expect([...schedule.sigmas]).toEqual(sigmas);
    expect([...schedule.timesteps]).toEqual(timesteps);
  });
});
