/** The stage link over real sockets: what comes through, what is refused, and how it ends. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { LinkAddress } from "@fluxline/gpu-node/adapters/stage-link/link-address.ts";
import { LinkBench } from "../support/stage-link.ts";
import { until } from "../support/until.ts";

let bench: LinkBench;
beforeEach(() => {
  bench = new LinkBench();
});
afterEach(() => bench.close());

const tcp: LinkAddress = { kind: "tcp", host: "127.0.0.1", port: 0 };

describe("a link", () => {
  test.each(["unix", "tcp"])("over %s carries frames both ways, in order", async (kind) => {
    const address = kind === "unix" ? bench.socketAddress() : tcp;
    const stage = await bench.listen({ address });
    const driver = bench.dial(stage.address);
    await until(() => stage.side.last !== undefined && driver.side.last !== undefined);
    const values = Float32Array.from({ length: 300_000 }, (_, index) => index / 7);
    const { link } = driver.side.last!;
    await Promise.all([
      link.send({ at: 1 }, [new Uint8Array(values.buffer)]),
      link.send({ at: 2 }),
      stage.side.last!.link.send({ back: true }, [Uint8Array.of(7)]),
    ]);
    await until(() => stage.side.last!.frames.length === 2);
    const [first, second] = stage.side.last!.frames;
    expect([first!.header, second!.header]).toEqual([{ at: 1 }, { at: 2 }]);
    const { buffer, byteOffset } = first!.payload;
    expect(new Float32Array(buffer, byteOffset, values.length)).toEqual(values);
    await until(() => driver.side.last!.frames.length === 1);
    expect(link.peer).toMatchObject({ role: "stage", rank: 1 });
    expect(stage.side.last!.link.peer).toMatchObject({ role: "driver", incarnation: "driver-1" });
  });
});
