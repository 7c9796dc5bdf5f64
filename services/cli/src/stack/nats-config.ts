/**
 * Configuration of the nats-server that `fluxline` runs: loopback only, JetStream in our own
 * folder, and room for every bucket that the bus declares.
 */
import { buckets, objectStores, payloadBytesMax } from "@fluxline/platform/bus/topology.ts";
import { loopback } from "./port.ts";

/** Stores are reserved whole when they are made, so the sum has to fit; this comes on top. */
const spareBytes = 1024 ** 3;

export function natsConfig(port: number, storeFolder: string): string {
  const reserved = [...buckets, ...objectStores].reduce((sum, each) => sum + each.maxBytes, 0);
  return [
    "# Written by `fluxline` at each start.",
    `listen: "${loopback}:${port}"`,
    `max_payload: ${payloadBytesMax}`,
    "jetstream {",
    `  store_dir: ${JSON.stringify(storeFolder)}`,
    `  max_file_store: ${reserved + spareBytes}`,
    "}",
    "",
  ].join("\n");
}
