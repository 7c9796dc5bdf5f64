/**
 * Loaded into a group's processes by NODE_OPTIONS: a runner that is asked to compute a row with the
 * guidance that FLUXLINE_TEST_POISON names dies on the spot, as under a kernel that crashes on
 * certain values. The product's own code knows nothing of it.
 */
import { InferenceSession } from "onnxruntime-node";

interface Rows {
  readonly dims: readonly number[];
  readonly data: Float32Array;
}
interface Session {
  run(feeds: Readonly<Record<string, Rows>>, ...rest: unknown[]): unknown;
}
interface Factory {
  create(...args: unknown[]): Promise<Session>;
}

/** First value of the embedding of the poisonous guidance. */
const poison = Math.fround(Number(process.env["FLUXLINE_TEST_POISON"]));

if (process.argv[1]?.endsWith("/runner.ts")) {
  const factory = InferenceSession as unknown as Factory;
  const create = factory.create.bind(factory);
  factory.create = async (...args) => {
    const session = await create(...args);
    const run = session.run.bind(session);
    session.run = (feeds, ...rest) => {
      const embedding = feeds["guidance_embedding"];
      if (embedding !== undefined && hasPoison(embedding)) {
        console.error("Error: the device met a value that it cannot compute with");
        process.exit(70);
      }
      return run(feeds, ...rest);
    };
    return session;
  };
}

function hasPoison({ dims, data }: Rows): boolean {
  const width = dims.at(-1) ?? 1;
  for (let row = 0; row < data.length; row += width) if (data[row] === poison) return true;
  return false;
}
