/** A stack in a temporary folder, for one command; nothing of it stays. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { unlessInterrupted } from "../interruption.ts";
import type { Session } from "../session.ts";
import { durationText } from "../view/pace.ts";
import { progressText } from "../view/progress-text.ts";
import { findNatsServer } from "./nats-server.ts";
import { Stack } from "./stack.ts";
import type { NodeOptions } from "./stack-layout.ts";

export interface PrivateStack {
  /** HOST:PORT of its gRPC API, once it serves. */
  untilReady(view: Notes): Promise<string>;
  /** Rejects when a part cannot be kept alive. */
  readonly failed: Promise<never>;
  stop(): Promise<void>;
}

interface Notes {
  note(text: string): void;
}

/** Begins to start it; what happens is noted from `untilReady` on. */
export async function startPrivateStack(
  given: Omit<NodeOptions, "stages" | "groups">,
  session: Session,
): Promise<PrivateStack> {
  const node = { ...given, groups: 1 };
  const natsServer = findNatsServer(session);
  const folder = mkdtempSync(join(tmpdir(), "fluxline-"));
  const removeFolder = () => rmSync(folder, { recursive: true, force: true });
  session.onExit(removeFolder);
  const begunMs = performance.now();
  let notes: Notes | undefined;
  try {
    mkdirSync(join(folder, "logs"));
    const stack = await Stack.spawn({
      folder,
      logFile: (child) => join(folder, "logs", `${child}.log`),
      natsServer,
      environment: session.environment,
      natsPort: 0,
      port: 0,
      node,
      onEvent: (event) => {
        if (event.kind === "died") notes?.note(`${event.child} died (${event.how}); restarting it`);
        if (event.kind === "progress") notes?.note(progressText(event));
      },
    });
    session.onExit(() => stack.kill());
    const ready = stack.untilReady();
    ready.catch(() => undefined); // told where it is awaited
    return {
      failed: stack.failed,
      async untilReady(view) {
        notes = view;
        view.note(`starting nats-server, a scheduler and a GPU node with ${node.model} ...`);
        await unlessInterrupted(session.interrupted, ready);
        view.note(`ready after ${durationText(performance.now() - begunMs)}`);
        return stack.address;
      },
      async stop() {
        await stack.stop();
        removeFolder();
      },
    };
  } catch (thrown) {
    removeFolder();
    throw thrown;
  }
}
