/**
 * Devices as people write them: `4x24GiB`, `1xH100,2x24GiB`. A known name stands for a device's
 * memory and for its published speed with FLUX.1-dev; of any other device only its memory is known.
 */
import type { FieldViolation } from "@fluxline/kernel/error.ts";
import type { Device } from "./placement.ts";

export interface DeviceOffer extends Device {
  /** Its speed was published; otherwise all devices are taken to be equally fast. */
  readonly isSpeedKnown: boolean;
}

const GIB = 2 ** 30;
const GB = 1e9;
/** As many as a group can have stages. */
const DEVICES_MAX = 64;
const MEMORY_BYTES_MAX = 4096 * GIB;

/**
 * Operations of the 28 steps of a picture of 1024x1024 with FLUX.1-dev and 512 text tokens, which is
 * what the published seconds are of: 28 x 57 blocks of width d = 3072 and S = 4608 tokens, each
 * 24 d^2 S + 4 S^2 d.
 */
export const PUBLISHED_OPERATIONS = 28 * 57 * (24 * 3072 ** 2 * 4608 + 4 * 4608 ** 2 * 3072);

interface DeviceProfile {
  /** What is left of its memory to programs. */
  readonly memoryGib: number;
  /** Published: one picture of 1024x1024, 28 steps, 16-bit numbers; the slower where there are two. */
  readonly pictureSeconds: number;
}

const PROFILES: Readonly<Record<string, DeviceProfile>> = {
  H200: { memoryGib: 139, pictureSeconds: 3.8 },
  H100: { memoryGib: 78, pictureSeconds: 4.3 },
  "A100-80GB": { memoryGib: 78, pictureSeconds: 10 },
  "A100-40GB": { memoryGib: 38, pictureSeconds: 10 },
  L20: { memoryGib: 44, pictureSeconds: 26.4 },
};

/**
 * A device of which only the memory is known is taken to compute at this rate, so that links and
 * loading have something to be weighed against: a middling GPU, or two cores as measured.
 */
const NOMINAL_OPERATIONS_PER_SECOND = { gpu: 1e14, cpu: 2e11 };

export const DEVICE_NAMES = Object.keys(PROFILES);

export interface ParsedDevices {
  readonly devices: readonly DeviceOffer[];
  readonly violations: readonly FieldViolation[];
}

/** Every part that is wrong is named. `provider`: what the devices compute with. */
export function parseDevices(text: string, provider: string): ParsedDevices {
  const violations: FieldViolation[] = [];
  const wrong = (description: string): [] => {
    violations.push({ field: "--devices", description });
    return [];
  };
  const found = text.split(",").flatMap((part): DeviceOffer[] => {
    const [, times = "1", what = ""] = /^(?:(\d{1,6})x)?(.+)$/i.exec(part.trim()) ?? [];
    const count = Number(times);
    if (count < 1) return wrong(`has "${part}"; use 1 or more devices of a kind, like 2x24GiB`);
    const device = readDevice(what);
    if (typeof device === "string") return wrong(`has "${part}"; ${device}`);
    if (count > DEVICES_MAX) return wrong(`has ${count} devices; use at most ${DEVICES_MAX}`);
    return Array.from({ length: count }, () => device);
  });
  if (found.length > DEVICES_MAX) {
    wrong(`has ${found.length} devices; use at most ${DEVICES_MAX}`);
  }
  const allKnown = found.every(({ isSpeedKnown }) => isSpeedKnown);
  const devices = allKnown
    ? found
    : found.map((device) => ({
        ...device,
        isSpeedKnown: false,
        operationsPerSecond: NOMINAL_OPERATIONS_PER_SECOND[provider === "cpu" ? "cpu" : "gpu"],
      }));
  return { devices, violations };
}

/** The device, or what to write instead. */
function readDevice(what: string): DeviceOffer | string {
  const name = DEVICE_NAMES.find((known) => known.toLowerCase() === what.toLowerCase());
  if (name !== undefined) {
    const { memoryGib, pictureSeconds } = PROFILES[name]!;
    return {
      kind: name,
      memoryBytes: memoryGib * GIB,
      operationsPerSecond: PUBLISHED_OPERATIONS / pictureSeconds,
      isSpeedKnown: true,
    };
  }
  const [, amount, unit = ""] = /^(\d+(?:\.\d+)?)(GiB|GB)$/i.exec(what) ?? [];
  if (amount === undefined) {
    return `use a memory with its unit, like 24GiB or 24GB, or one of ${DEVICE_NAMES.join(", ")}`;
  }
  const memoryBytes = Math.floor(Number(amount) * (unit.toLowerCase() === "gib" ? GIB : GB));
  if (memoryBytes <= 0 || memoryBytes > MEMORY_BYTES_MAX) {
    return `use a memory above 0 and up to ${MEMORY_BYTES_MAX / GIB}GiB`;
  }
  return {
    kind: `${Number(amount)} ${unit.toLowerCase() === "gib" ? "GiB" : "GB"}`,
    memoryBytes,
    operationsPerSecond: NOMINAL_OPERATIONS_PER_SECOND.gpu,
    isSpeedKnown: false,
  };
}

/** As `--devices` takes them, in order: equal neighbours are counted. */
export function devicesText(devices: readonly Device[]): string {
  const runs: { kind: string; count: number }[] = [];
  for (const { kind } of devices) {
    const last = runs.at(-1);
    if (last?.kind === kind) last.count += 1;
    else runs.push({ kind, count: 1 });
  }
  return runs.map(({ kind, count }) => `${count}x${kind.replace(" ", "")}`).join(",");
}

const SIDE_MAX = 8192;
const SIZE_MULTIPLE = 16;

/** Width and height in pixels. */
export function readSize(
  text: string,
  violations: FieldViolation[],
): { width: number; height: number } {
  const [, width = 0, height = 0] = (/^(\d{1,5})x(\d{1,5})$/.exec(text) ?? []).map(Number);
  const isSide = (side: number): boolean => {
    return side >= SIZE_MULTIPLE && side <= SIDE_MAX && side % SIZE_MULTIPLE === 0;
  };
  if (isSide(width) && isSide(height)) return { width, height };
  const rule = `use WIDTHxHEIGHT, multiples of ${SIZE_MULTIPLE} up to ${SIDE_MAX}, like 1024x1024`;
  violations.push({ field: "--max-size", description: `is "${text}"; ${rule}` });
  return { width: SIZE_MULTIPLE, height: SIZE_MULTIPLE };
}
