/**
 * Which devices text encodings and decodes keep, so that they delay no running step by more than
 * one of them: at most one is in flight on a device, and on a device that steps pass, a step begins
 * (if one is ready) between one of them and the next.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { DevicePlan } from "./step-batcher.ts";

export type LaneKind = "encode" | "decode";

export class DeviceLanes {
  readonly #plan: DevicePlan;
  readonly #steps: ReadonlySet<number>;
  readonly #busy = new Set<number>();
  /** Devices on which a step is due before the next encoding or decode. */
  readonly #stepDue = new Set<number>();

  constructor(plan: DevicePlan) {
    for (const [kind, devices] of Object.entries(plan)) {
      assert(devices.length > 0, `no device for ${kind}`);
    }
    this.#plan = plan;
    this.#steps = new Set(plan.step);
  }

  isFree(kind: LaneKind, stepIsReady: boolean): boolean {
    return this.#plan[kind].every(
      (device) => !this.#busy.has(device) && !(stepIsReady && this.#stepDue.has(device)),
    );
  }

  /** An encoding or a decode runs on a device that steps pass. */
  get holdsSteps(): boolean {
    return this.#plan.step.some((device) => this.#busy.has(device));
  }

  begins(kind: LaneKind): void {
    for (const device of this.#plan[kind]) {
      assert(!this.#busy.has(device), `two encodings or decodes on device ${device}`);
      this.#busy.add(device);
      if (this.#steps.has(device)) this.#stepDue.add(device);
    }
  }

  ends(kind: LaneKind): void {
    for (const device of this.#plan[kind]) this.#busy.delete(device);
  }

  stepBegins(): void {
    this.#stepDue.clear();
  }
}
