import { expect, test } from "vitest";
import { describeConfig } from "@fluxline/platform/config.ts";
import { configTree } from "./config.ts";

test("docs/scheduler-config.md is what the settings print", async () => {
  const page =
    "# Settings of the scheduler\n\nPrinted from `services/scheduler/src/config.ts`; change it there, " +
    "then run\n`npx vitest run --project unit services/scheduler -u`.\n\n" +
    describeConfig(configTree);
  await expect(page).toMatchFileSnapshot("../../../docs/scheduler-config.md");
});
