/**
 * The runner process: one device. `session.run` of onnxruntime-node blocks the thread that calls
 * it, so the driver, which must keep answering, talks to this process over file descriptor 3.
 * When the driver goes, the descriptor closes and the runner ends with it.
 */
import { Socket } from "node:net";
import { toAppError } from "@fluxline/kernel/error.ts";
import { onnxBackend } from "./adapters/onnx-backend.ts";
import type { DeviceBackend } from "./adapters/runner/backend.ts";
import { FrameChannel } from "./adapters/runner/channel.ts";
import { RunnerExecutor } from "./adapters/runner/executor.ts";
import { parseRunnerArguments, type RunnerArguments } from "./adapters/runner/arguments.ts";
import { simulatedBackend } from "./adapters/runner/simulated-backend.ts";

const DRIVER_DESCRIPTOR = 3;

function backendFor(options: RunnerArguments): DeviceBackend {
  if (options.provider === "simulated") return simulatedBackend(options.simulatedCosts);
  return onnxBackend(options.provider, options.threads);
}

function die(thrown: unknown): void {
  console.error(`Error: ${toAppError(thrown).message}`);
  process.exit(1);
}

const options = parseRunnerArguments(process.argv.slice(2));
process.title = `fluxline gpu-node runner ${options.provider} ${options.role}`;
// Ctrl-C reaches the whole process group; the driver decides when its runner ends.
process.on("SIGINT", () => undefined);

const channel = new FrameChannel(new Socket({ fd: DRIVER_DESCRIPTOR }), {
  onFrame: (frame) => {
    work = work.then(() => executor.handle(frame)).catch(die);
  },
  onEnd: (error) => {
    if (error !== undefined) console.error(`runner: ${error.message}`);
    process.exit(error === undefined ? 0 : 1);
  },
});
const executor = new RunnerExecutor(backendFor(options), (message, parts) =>
  channel.send(message, parts),
);
let work: Promise<void> = Promise.resolve();
executor.greet();
