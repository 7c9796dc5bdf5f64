/**
 * The table behind core/placement-plan.ts: the best of all plans for one choice of tiles, by dynamic
 * programming. A state is (devices used of each kind, blocks done, components placed); a transition
 * gives the next device a range of blocks and some of the components that are left.
 */
import { type MemoryBound, memoryNeed } from "@fluxline/kernel/memory-bound.ts";
import type { ComponentSize } from "./model-sizes.ts";
import {
  type Device,
  type Mode,
  type PlacedStage,
  type Placement,
  type PlacementProblem,
  stageSlopes,
  TILE_WORK,
} from "./placement.ts";
import type { BlockRange } from "./stage-plan.ts";

/** Sums of the same seconds in another order differ by less. */
const ROUNDING = 1e-9;

/** Some components together on one device. */
interface Combination {
  readonly mask: number;
  readonly parts: readonly { readonly index: number; readonly mode: Mode }[];
  readonly operations: number;
  readonly loadSeconds: number;
  readonly needBytes: number;
}

type Objective =
  | { readonly kind: "bottleneck"; readonly limit: number }
  | { readonly kind: "squares"; readonly limit: number }
  | { readonly kind: "shortfall" };

/** All plans for one choice of tiles. */
export class PlacementTable {
  readonly #problem: PlacementProblem;
  readonly #tile: number;
  /** One device of each kind; with the order given, every device is a kind of its own. */
  readonly #kinds: readonly Device[];
  readonly #counts: readonly number[];
  readonly #strides: readonly number[];
  readonly #usedCount: number;
  readonly #blocks: number;
  readonly #masks: number;
  readonly #weightSums: readonly number[];
  readonly #operationSums: readonly number[];
  readonly #combinations: readonly Combination[];
  /** By first block and end, without components. */
  readonly #stageNeeds: readonly (readonly number[])[];

  constructor(problem: PlacementProblem, tile: number) {
    this.#problem = problem;
    this.#tile = tile;
    const { devices, sizes, order } = problem;
    const byKind = new Map<string, Device[]>();
    if (order === "any") {
      for (const device of devices) {
        byKind.set(device.kind, [...(byKind.get(device.kind) ?? []), device]);
      }
    }
    const groups = order === "any" ? [...byKind.values()] : [[...devices]];
    this.#kinds = groups.map(([first]) => first!);
    this.#counts = groups.map(({ length }) => length);
    let stride = 1;
    this.#strides = this.#counts.map((count) => {
      const own = stride;
      stride *= count + 1;
      return own;
    });
    this.#usedCount = stride;
    this.#blocks = sizes.blocks.length;
    this.#masks = 1 << sizes.components.length;
    this.#weightSums = sums(sizes.blocks.map(({ weightBytes }) => weightBytes));
    this.#operationSums = sums(sizes.blocks.map(({ operations }) => operations));
    this.#combinations = this.#allCombinations();
    const places = Array.from({ length: this.#blocks + 1 }, (_, block) => block);
    this.#stageNeeds = places.map((first) =>
      places.map((end) =>
        end <= first ? 0 : memoryNeed(this.#bound(0, first, end, []), problem.demand),
      ),
    );
  }

  /** Infinity if nothing fits, or nothing is at least as good as `limit`. */
  leastBottleneck(limit: number): number {
    // Short stages are tried before long ones: most ranges are far slower than the answer.
    const whole = this.#operationSums.at(-1)!;
    const fastest = Math.max(...this.#kinds.map(({ operationsPerSecond }) => operationsPerSecond));
    const slowest = Math.min(...this.#kinds.map(({ operationsPerSecond }) => operationsPerSecond));
    const longest = 2 * (whole / slowest + this.#componentSecondsMax());
    let tried = (1.25 * whole) / (fastest * this.#problem.devices.length);
    for (; tried < Math.min(limit, longest); tried *= 2) {
      const found = this.#solve({ kind: "bottleneck", limit: tried });
      if (found !== undefined) return found.value;
    }
    return this.#solve({ kind: "bottleneck", limit })?.value ?? Number.POSITIVE_INFINITY;
  }

  mostEven(limit: number): Placement | undefined {
    return this.#solve({ kind: "squares", limit: limit * (1 + ROUNDING) })?.placement();
  }

  /** Undefined if no plan has the choices that are fixed. */
  leastShortfall(): { bytes: number; placement: () => Placement } | undefined {
    const found = this.#solve({ kind: "shortfall" });
    return found && { bytes: found.value, placement: found.placement };
  }

  /** At a time. */
  get decodedPixels(): number {
    const { pixels } = this.#problem.demand;
    return this.#tile === 0 ? pixels : Math.min(pixels, this.#tile ** 2);
  }

  #componentSecondsMax(): number {
    return this.#problem.sizes.components.reduce((sum, { operations, weightBytes }) => {
      const { hostOperationsPerSecond: host = 1e12, loadBytesPerSecond } = this.#problem;
      const slowest = Math.min(host, ...this.#kinds.map((kind) => kind.operationsPerSecond));
      return sum + (TILE_WORK * operations) / slowest + weightBytes / loadBytesPerSecond;
    }, 0);
  }

  /**
   * Rows of the table are sets of used devices; a device more is a later row. `value` is the best of
   * a state, `from`, `by` and `how` lead back: the state before, the kind taken, the combination.
   */
  #solve(objective: Objective): { value: number; placement: () => Placement } | undefined {
    const size = this.#usedCount * (this.#blocks + 1) * this.#masks;
    const value = new Float64Array(size).fill(Number.POSITIVE_INFINITY);
    const from = new Int32Array(size).fill(-1);
    const by = new Uint8Array(size);
    const how = new Uint16Array(size);
    for (const { mask, seconds } of this.#hostChoices()) {
      if (objective.kind === "bottleneck" && seconds > objective.limit) continue;
      if (objective.kind === "squares" && seconds > objective.limit) continue;
      value[mask] = objective.kind === "shortfall" ? 0 : cost(objective, seconds);
    }
    for (let used = 0; used < this.#usedCount - 1; used++) {
      this.#extendAll(used, objective, { value, from, by, how });
    }
    const end = size - 1;
    if (value[end] === Number.POSITIVE_INFINITY) return undefined;
    const trace = (): Placement => this.#placement(end, { value, from, by, how });
    return { value: value[end]!, placement: trace };
  }

  #extendAll(used: number, objective: Objective, table: Table): void {
    const taken = this.#strides.map((stride, kind) => {
      return Math.floor(used / stride) % (this.#counts[kind]! + 1);
    });
    const rank = taken.reduce((sum, count) => sum + count, 0);
    const rowSize = (this.#blocks + 1) * this.#masks;
    for (let kind = 0; kind < this.#kinds.length; kind++) {
      if (taken[kind] === this.#counts[kind]) continue;
      const device = this.#device(kind, rank);
      const next = (used + this.#strides[kind]!) * rowSize;
      for (let first = rank; first < this.#blocks; first++) {
        const here = used * rowSize + first * this.#masks;
        const row = table.value.subarray(here, here + this.#masks);
        if (row.every((known) => known === Number.POSITIVE_INFINITY)) continue;
        this.#extend({ rank, kind, device, first, here, next }, objective, table);
      }
    }
  }

  #device(kind: number, rank: number): Device {
    return this.#problem.order === "given" ? this.#problem.devices[rank]! : this.#kinds[kind]!;
  }

  /** Every stage that begins at `first`, with every combination of components. */
  #extend(step: Step, objective: Objective, { value, from, by, how }: Table): void {
    const { rank, kind, device, first, here, next } = step;
    const { devices, steps, reserve } = this.#problem;
    const last = rank === devices.length - 1;
    const link = first === 0 ? 0 : this.#linkSeconds(first);
    const isShortfall = objective.kind === "shortfall";
    if (!isShortfall && link > objective.limit) return;
    const linkCost = isShortfall ? 0 : cost(objective, link);
    const { operationsPerSecond: speed } = device;
    const memoryBytes = device.memoryBytes * (1 - reserve);
    const endMax = this.#blocks - (devices.length - 1 - rank);
    for (let end = last ? this.#blocks : first + 1; end <= endMax; end++) {
      const seconds = this.#operationsOf(first, end) / speed;
      const need = this.#stageNeeds[first]![end]!;
      // They only grow with the stage; its need does not, for the last stage hands nothing on.
      if (!isShortfall && seconds > objective.limit) break;
      if (!this.#cutAllowed(rank, first, end)) continue;
      for (let index = 0; index < this.#combinations.length; index++) {
        const combination = this.#combinations[index]!;
        const missing = need + combination.needBytes - memoryBytes;
        const spent = seconds + (combination.operations / speed + combination.loadSeconds) / steps;
        if (!isShortfall && (missing > 0 || spent > objective.limit)) continue;
        if (!this.#placesAllowed(rank, combination)) continue;
        const own = isShortfall ? Math.max(0, missing) : cost(objective, spent);
        for (let mask = 0; mask < this.#masks; mask++) {
          if ((mask & combination.mask) !== 0) continue;
          const before = value[here + mask]!;
          if (before === Number.POSITIVE_INFINITY) continue;
          const after =
            objective.kind === "squares"
              ? before + own + linkCost
              : Math.max(before, own, linkCost);
          const target = next + end * this.#masks + (mask | combination.mask);
          if (after >= value[target]!) continue;
          value[target] = after;
          from[target] = here + mask;
          by[target] = kind;
          how[target] = index;
        }
      }
    }
  }

  #cutAllowed(rank: number, first: number, end: number): boolean {
    const cuts = this.#problem.fixed?.cuts;
    if (cuts === undefined) return true;
    return first === (rank === 0 ? 0 : cuts[rank - 1]) && end === (cuts[rank] ?? this.#blocks);
  }

  #placesAllowed(rank: number, { parts }: Combination): boolean {
    const { fixed, sizes } = this.#problem;
    if (fixed === undefined) return true;
    return parts.every(({ index, mode }) => {
      const { name } = sizes.components[index]!;
      const place = fixed.places?.get(name);
      if (place !== undefined && place !== rank) return false;
      return (
        fixed.sequential === undefined || fixed.sequential.has(name) === (mode === "sequential")
      );
    });
  }

  /** Which components could stand beside rank 0, and what that takes. */
  #hostChoices(): { mask: number; seconds: number }[] {
    const { sizes, hostOperationsPerSecond: speed, hostMay, fixed, steps } = this.#problem;
    const choices = Array.from({ length: this.#masks }, (_, mask) => mask).filter((mask) =>
      sizes.components.every(({ name }, index) => {
        const place = fixed?.places?.get(name);
        const isThere = (mask & (1 << index)) !== 0;
        if (place !== undefined) return isThere === (place === "cpu");
        const may = speed !== undefined && (hostMay === undefined || hostMay.includes(name));
        return !isThere || may;
      }),
    );
    return choices.map((mask) => {
      const there = sizes.components.filter((_, index) => (mask & (1 << index)) !== 0);
      const operations = there.reduce((sum, part) => sum + this.#operations(part), 0);
      return { mask, seconds: operations === 0 ? 0 : operations / (speed ?? 1e12) / steps };
    });
  }

  #allCombinations(): Combination[] {
    const { components } = this.#problem.sizes;
    let found: Combination["parts"][] = [[]];
    for (const index of components.keys()) {
      found = found.flatMap((parts) => [
        parts,
        [...parts, { index, mode: "resident" as const }],
        [...parts, { index, mode: "sequential" as const }],
      ]);
    }
    return found.map((parts) => this.#combination(parts));
  }

  #combination(parts: Combination["parts"]): Combination {
    const { components } = this.#problem.sizes;
    const combination = { mask: 0, parts, operations: 0, loadSeconds: 0, needBytes: 0 };
    let sequentialMax = 0;
    for (const { index, mode } of parts) {
      const component = components[index]!;
      combination.mask |= 1 << index;
      combination.operations += this.#operations(component);
      combination.needBytes += this.#workingOf(component);
      if (mode === "resident") combination.needBytes += component.weightBytes;
      else {
        combination.loadSeconds += component.weightBytes / this.#problem.loadBytesPerSecond;
        sequentialMax = Math.max(sequentialMax, component.weightBytes);
      }
    }
    combination.needBytes += sequentialMax;
    return combination;
  }

  #operations({ use, operations }: ComponentSize): number {
    const inTiles =
      use === "decode" && this.#tile > 0 && this.#tile ** 2 < this.#problem.demand.pixels;
    return inTiles ? TILE_WORK * operations : operations;
  }

  #workingOf({ use, working }: ComponentSize): number {
    const { textTokens } = this.#problem.demand;
    const linear =
      use === "decode" ? working.perPixel * this.decodedPixels : working.perTextToken * textTokens;
    return working.fixedBytes + linear;
  }

  #operationsOf(first: number, end: number): number {
    return this.#operationSums[end]! - this.#operationSums[first]!;
  }

  #linkSeconds(block: number): number {
    const { perPixel, perTextToken } = this.#problem.sizes.cuts[block]!;
    const { pixels, textTokens } = this.#problem.demand;
    return (perPixel * pixels + perTextToken * textTokens) / this.#problem.linkBytesPerSecond;
  }

  /** Memory of a device with these blocks and components, in the form that admission reckons with. */
  #bound(rank: number, first: number, end: number, parts: Combination["parts"]): MemoryBound {
    const { sizes, runtimeBytes, devices } = this.#problem;
    const row = stageSlopes(sizes, first, end);
    const placed = parts.map(({ index, mode }) => ({ mode, ...sizes.components[index]! }));
    const total = (pick: (part: (typeof placed)[number]) => number): number =>
      placed.reduce((sum, part) => sum + pick(part), 0);
    const sequential = placed.filter(({ mode }) => mode === "sequential");
    const onlyFor = (use: ComponentSize["use"], slope: "perPixel" | "perTextToken") =>
      total((part) => (part.use === use ? part.working[slope] : 0));
    return {
      device: `rank ${rank}`,
      availableBytes: devices[rank]!.memoryBytes,
      fixedBytes:
        runtimeBytes +
        this.#weightSums[end]! -
        this.#weightSums[first]! +
        total(({ working }) => working.fixedBytes) +
        total(({ mode, weightBytes }) => (mode === "resident" ? weightBytes : 0)) +
        Math.max(0, ...sequential.map(({ weightBytes }) => weightBytes)),
      rowBytesPerPixel: row.perPixel,
      rowBytesPerTextToken: row.perTextToken,
      decodeBytesPerPixel: onlyFor("decode", "perPixel"),
      decodePixelsMax: this.#tile ** 2,
      encodeBytesPerTextToken: onlyFor("encode", "perTextToken"),
    };
  }

  #placement(end: number, { from, by, how }: Table): Placement {
    const rowSize = (this.#blocks + 1) * this.#masks;
    const stages: PlacedStage[] = [];
    let state = end;
    for (let rank = this.#problem.devices.length - 1; rank >= 0; rank--) {
      const before = from[state]!;
      const blocks = {
        first: Math.floor((before % rowSize) / this.#masks),
        end: Math.floor((state % rowSize) / this.#masks),
      };
      const device = this.#device(by[state]!, rank);
      stages.unshift(this.#stage(rank, device, blocks, this.#combinations[how[state]!]!));
      state = before;
    }
    const { components } = this.#problem.sizes;
    const onHost = components.filter((_, index) => (state & (1 << index)) !== 0);
    const hostSeconds = this.#hostChoices().find(({ mask }) => mask === state)!.seconds;
    const linkSeconds = stages.slice(1).map(({ blocks }) => this.#linkSeconds(blocks.first));
    const resources = [
      ...stages.map(({ seconds }, rank) => ({ resource: `rank ${rank}`, seconds })),
      ...linkSeconds.map((seconds, rank) => {
        return { resource: `link from rank ${rank} to ${rank + 1}`, seconds };
      }),
      { resource: "cpu beside rank 0", seconds: hostSeconds },
    ];
    return {
      stages,
      host: { components: onHost.map(({ name }) => name), seconds: hostSeconds },
      linkSeconds,
      decodeTile: this.#tile,
      bottleneck: resources.reduce((a, b) => (b.seconds > a.seconds ? b : a)),
      squares: resources.reduce((sum, { seconds }) => sum + seconds ** 2, 0),
    };
  }

  #stage(rank: number, device: Device, blocks: BlockRange, how: Combination): PlacedStage {
    const { steps, demand, sizes } = this.#problem;
    const { first, end } = blocks;
    const { operationsPerSecond: speed } = device;
    const row = stageSlopes(sizes, first, end);
    const bound = this.#bound(rank, first, end, how.parts);
    return {
      device,
      blocks,
      components: how.parts.map(({ index, mode }) => {
        const component = sizes.components[index]!;
        const { name, weightBytes } = component;
        return { name, mode, weightBytes, workingBytes: this.#workingOf(component) };
      }),
      seconds:
        this.#operationsOf(first, end) / speed + (how.operations / speed + how.loadSeconds) / steps,
      weightBytes: this.#weightSums[end]! - this.#weightSums[first]!,
      workingBytes:
        demand.rows * (row.perPixel * demand.pixels + row.perTextToken * demand.textTokens),
      needBytes: memoryNeed(bound, demand),
      bound: { ...bound, availableBytes: device.memoryBytes },
    };
  }
}

interface Table {
  readonly value: Float64Array;
  readonly from: Int32Array;
  readonly by: Uint8Array;
  readonly how: Uint16Array;
}

interface Step {
  readonly rank: number;
  readonly kind: number;
  readonly device: Device;
  readonly first: number;
  /** Of the state with `first` blocks done and no component placed, and of its row's successor. */
  readonly here: number;
  readonly next: number;
}

function cost(objective: { kind: "bottleneck" | "squares" }, seconds: number): number {
  return objective.kind === "squares" ? seconds ** 2 : seconds;
}

function sums(values: readonly number[]): number[] {
  const all = [0];
  for (const value of values) all.push(all.at(-1)! + value);
  return all;
}
