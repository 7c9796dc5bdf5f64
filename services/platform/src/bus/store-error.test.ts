import { JetStreamApiError } from "@nats-io/jetstream";
import { expect, test } from "vitest";
import { RetryInfo } from "@fluxline/proto/google/rpc/error_details.ts";
import { toStatus } from "../grpc/status.ts";
import { storeError } from "./store-error.ts";

const answer = (code: number) =>
  new JetStreamApiError({ code: 503, err_code: code, description: "no" });

test.each([10023, 10047, 10077, 10110, 10122])(
  "a full store (%i) says how long to wait",
  (code) => {
    const error = storeError("jobs", answer(code));
    expect(error).toMatchObject({ code: "resource_exhausted", reason: "STORE_FULL" });
    const retry = toStatus(error).details.find(({ typeUrl }) => typeUrl.endsWith(".RetryInfo"));
    expect(retry && RetryInfo.decode(retry.value).retryDelay?.seconds).toBeGreaterThan(0n);
  },
);

test("a value that is too large does not: waiting would not help", () => {
  const error = storeError("jobs", answer(10054));
  expect(error).toMatchObject({ code: "invalid_argument", retryAfterMs: undefined });
});
