/** Both ends of a stage link in one process, over real sockets, and what happened on them. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { AppError } from "@fluxline/kernel/error.ts";
import { Random } from "@fluxline/kernel/random.ts";
import type { Link, LinkFrame } from "@fluxline/gpu-node/adapters/stage-link/link.ts";
import type { LinkAddress } from "@fluxline/gpu-node/adapters/stage-link/link-address.ts";
import {
  LinkDialer,
  type LinkDialerOptions,
} from "@fluxline/gpu-node/adapters/stage-link/link-dialer.ts";
import type { LinkIdentity } from "@fluxline/gpu-node/adapters/stage-link/link-identity.ts";
import { linkLimits, type LinkLimits } from "@fluxline/gpu-node/adapters/stage-link/link-limits.ts";
import {
  LinkListener,
  type LinkListenerOptions,
} from "@fluxline/gpu-node/adapters/stage-link/link-listener.ts";

export const driverIdentity: LinkIdentity = {
  role: "driver",
  pool: "default",
  group: "g0",
  incarnation: "driver-1",
  rank: 0,
  stages: 3,
  planDigest: "plan-1",
  modelDigest: "model-1",
  numericsClass: "class-1",
};

export function stageIdentity(rank: number): LinkIdentity {
  return { ...driverIdentity, role: "stage", rank, incarnation: `stage-${rank}` };
}

/** Patient enough for a busy machine. */
export const testLimits = (given: Partial<LinkLimits> = {}): LinkLimits =>
  linkLimits({
    payloadBytesMax: 8 * 1024 * 1024,
    heartbeatMs: 50,
    silenceMsMax: 2_000,
    ...given,
  });

/** For a test that wants to see somebody given up. */
export const impatientLimits = (given: Partial<LinkLimits> = {}): LinkLimits =>
  testLimits({ silenceMsMax: 400, handshakeMsMax: 400, ...given });

export interface LoggedLine {
  readonly level: "info" | "warn";
  readonly message: string;
  readonly facts: object;
}

/** One end of one link. */
export interface LinkEnd {
  readonly link: Link;
  readonly frames: LinkFrame[];
  readonly ends: AppError[];
}

/** What one side saw. */
export class LinkSide {
  readonly lines: LoggedLine[] = [];
  /** Every link that came up, oldest first. */
  readonly links: LinkEnd[] = [];
  /** Failures that a dialer reported. */
  readonly downs: { readonly error: AppError; readonly failures: number }[] = [];
  readonly log = {
    info: (facts: object, message: string) => this.#note("info", facts, message),
    warn: (facts: object, message: string) => this.#note("warn", facts, message),
  };
  /** What to do with a frame; keeps it if nothing else is set. */
  onFrame: (frame: LinkFrame, end: LinkEnd) => void | Promise<void> = () => undefined;

  readonly take = (link: Link) => {
    const end: LinkEnd = { link, frames: [], ends: [] };
    this.links.push(end);
    return {
      onFrame: (frame: LinkFrame) => {
        end.frames.push(frame);
        return this.onFrame(frame, end);
      },
      onEnd: (error: AppError) => {
        end.ends.push(error);
      },
    };
  };

  get last(): LinkEnd | undefined {
    return this.links.at(-1);
  }

  /** Errors of connections that did not become links. */
  get refusals(): AppError[] {
    return this.lines
      .filter(({ message }) => message === "a connection to the stage link failed")
      .map(({ facts }) => (facts as { error: AppError }).error);
  }

  #note(level: "info" | "warn", facts: object, message: string): void {
    this.lines.push({ level, message, facts });
  }
}

/** Opens ends and closes them after the test. */
export class LinkBench {
  readonly folder = mkdtempSync(join(tmpdir(), "stage-link-"));
  readonly #closers: (() => Promise<void>)[] = [];

  socketAddress(name = "stage.sock"): LinkAddress {
    return { kind: "unix", path: join(this.folder, name) };
  }

  async listen(options: Partial<LinkListenerOptions> = {}) {
    const side = new LinkSide();
    const listener = new LinkListener({
      address: this.socketAddress(),
      identity: stageIdentity(1),
      limits: testLimits(),
      onLink: side.take,
      log: side.log,
      ...options,
    });
    const address = await listener.listen();
    this.onClose(() => listener.close());
    return { side, listener, address };
  }

  dial(address: LinkAddress, options: Partial<LinkDialerOptions> = {}) {
    const side = new LinkSide();
    const dialer = new LinkDialer({
      address,
      identity: driverIdentity,
      expected: { role: "stage", rank: 1 },
      limits: testLimits(),
      random: new Random(1),
      pauseMs: { first: 5, max: 50 },
      onUp: side.take,
      onDown: (error, failures) => side.downs.push({ error, failures }),
      log: side.log,
      ...options,
    });
    dialer.start();
    this.onClose(() => dialer.stop());
    return { side, dialer };
  }

  onClose(closer: () => Promise<void>): void {
    this.#closers.push(closer);
  }

  async close(): Promise<void> {
    for (const close of this.#closers.splice(0).toReversed()) await close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
