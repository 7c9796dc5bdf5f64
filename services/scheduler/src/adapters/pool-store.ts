/** Pool records: written when a group registers, read to validate also while no group is there. */
import { AppError } from "@fluxline/kernel/error.ts";
import type { KeyValue } from "@fluxline/platform/bus/key-value.ts";
import {
  type ModelProfile as WireProfile,
  PoolRecord,
} from "@fluxline/proto/fluxline/internal/v1/record.ts";
import type { GroupFacts } from "../core/group-table.ts";

const schemaVersion = 1;
const attemptsMax = 5;

export async function storePool(
  kv: KeyValue,
  pool: string,
  profile: WireProfile,
  facts: GroupFacts,
): Promise<void> {
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    const stored = await kv.get(pool);
    const before = stored && PoolRecord.decode(stored.value);
    const { numericsClass, simulated } = facts;
    const record = PoolRecord.fromPartial({ schemaVersion, pool, numericsClass, simulated });
    record.profile = profile;
    record._unknownFields = before?._unknownFields;
    const value = PoolRecord.encode(record).finish();
    if (stored && Buffer.from(stored.value).equals(value)) return;
    const outcome = stored
      ? await kv.update(pool, value, stored.revision)
      : await kv.create(pool, value);
    if (outcome.kind === "written") return;
    if (outcome.kind === "refused") throw outcome.error;
  }
  throw new AppError("unavailable", `the record of pool ${pool} could not be written`, {
    reason: "POOL_NOT_WRITTEN",
  });
}
