/**
 * Loaded into a group's processes by NODE_OPTIONS: a runner whose device is short of memory. A call
 * with more rows of an input than FLUXLINE_TEST_SHORT allows it (`hidden_states=2,input_ids=1`)
 * fails as onnxruntime fails when its arena cannot grow, word for word. The product's own code knows
 * nothing of it.
 */
import { fileURLToPath } from "node:url";
import { InferenceSession } from "onnxruntime-node";

interface Session {
  run(feeds: Readonly<Record<string, { dims: readonly number[] }>>, ...rest: unknown[]): unknown;
}
interface Factory {
  create(...args: unknown[]): Promise<Session>;
}

/** The environment of a process whose runners have memory for so many rows of each input. */
export function shortOf(rows: Readonly<Record<string, number>>): Record<string, string> {
  const text = Object.entries(rows).map(([input, most]) => `${input}=${most}`);
  return {
    NODE_OPTIONS: `--import=${fileURLToPath(import.meta.url)}`,
    FLUXLINE_TEST_SHORT: text.join(","),
  };
}

const limits = (process.env["FLUXLINE_TEST_SHORT"] ?? "").split(",").map((limit) => {
  const [input = "", rows = ""] = limit.split("=");
  return { input, rows: Number(rows) };
});

if (process.argv[1]?.endsWith("/runner.ts")) {
  const factory = InferenceSession as unknown as Factory;
  const create = factory.create.bind(factory);
  factory.create = async (...args) => {
    const session = await create(...args);
    const run = session.run.bind(session);
    session.run = (feeds, ...rest) => {
      const isTooMuch = limits.some(({ input, rows }) => (feeds[input]?.dims[0] ?? 0) > rows);
      if (!isTooMuch) return run(feeds, ...rest);
      throw new Error(
        "Non-zero status code returned while running Gemm node. Name:'double.0.img.attn.q' " +
          "Status Message: onnxruntime/core/framework/bfc_arena.cc:360 void* " +
          "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) " +
          "Failed to allocate memory for requested buffer of size 16777216",
      );
    };
    return session;
  };
}
