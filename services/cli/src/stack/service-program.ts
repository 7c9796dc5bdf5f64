/** The programs of the other services: they are started, never imported. */
import { fileURLToPath } from "node:url";

const service = (path: string) => fileURLToPath(new URL(`../../../${path}`, import.meta.url));

export const schedulerProgram = service("scheduler/src/main.ts");
export const gpuNodeProgram = service("gpu-node/src/main.ts");
export const natsGuardProgram = service("cli/src/stack/nats-guard.ts");
