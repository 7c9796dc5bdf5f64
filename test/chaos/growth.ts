/**
 * Whether a long-lived process grows: memory and open files, sampled while it serves under strikes.
 *
 * A heap goes up and down with its collections, so each minute counts by its lowest sample, and the
 * first part of the time, in which caches and the heap find their size, does not count. Through
 * what is left goes a straight line by least squares.
 */

export interface Sample {
  readonly atMs: number;
  readonly rssBytes: number;
  readonly files: number;
}

export interface Growth {
  readonly minutes: number;
  readonly rssFirstBytes: number;
  readonly rssLastBytes: number;
  /** Of the line; undefined when there is too little to draw it through. */
  readonly rssBytesPerHour: number | undefined;
  /** Standard error of that slope. */
  readonly errorBytesPerHour: number | undefined;
  readonly filesFirst: number;
  readonly filesLast: number;
}

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const MIB = 1024 * 1024;
/** Of the time, at its beginning, that does not count. */
const WARM_UP_SHARE = 1 / 4;
const MINUTES_MIN = 8;
/**
 * A process may grow by so much in an hour before it is called a leak: the floor of a V8 heap of
 * 100 to 200 MiB wanders by 10 MiB within an hour by itself, and whatever is lost per job, at the
 * some thousand jobs of an hour, shows above three times that as soon as it is 10 KiB.
 */
export const RSS_BYTES_PER_HOUR_MAX = 32 * MIB;
/** A slope counts only when it is so many times its own standard error. */
const CERTAINTY = 3;
/** Connections come and go; a descriptor lost with each strike or job would be hundreds. */
export const FILES_GROWTH_MAX = 20;

export function growthOf(samples: readonly Sample[]): Growth {
  const floors = minuteFloors(samples);
  const counted = floors.slice(Math.floor(floors.length * WARM_UP_SHARE));
  const line = counted.length < MINUTES_MIN ? undefined : slopeOf(counted);
  const first = counted[0] ?? { rssBytes: 0, files: 0 };
  const last = counted.at(-1) ?? first;
  return {
    minutes: floors.length,
    rssFirstBytes: first.rssBytes,
    rssLastBytes: last.rssBytes,
    rssBytesPerHour: line?.slope,
    errorBytesPerHour: line?.error,
    filesFirst: first.files,
    filesLast: last.files,
  };
}

/** Why it is a leak, in words; undefined if it is none. */
export function leakOf(growth: Growth): string | undefined {
  const { rssBytesPerHour = 0, errorBytesPerHour = 0, filesFirst, filesLast } = growth;
  if (filesLast - filesFirst > FILES_GROWTH_MAX) {
    return `open files went from ${filesFirst} to ${filesLast}`;
  }
  const certain = rssBytesPerHour > CERTAINTY * errorBytesPerHour;
  if (certain && rssBytesPerHour > RSS_BYTES_PER_HOUR_MAX) {
    return `memory grows by ${(rssBytesPerHour / MIB).toFixed(1)} MiB an hour`;
  }
  return undefined;
}

function minuteFloors(samples: readonly Sample[]): Sample[] {
  const begunMs = samples[0]?.atMs ?? 0;
  const minutes = Map.groupBy(samples, ({ atMs }) => Math.floor((atMs - begunMs) / MINUTE_MS));
  return [...minutes].map(([minute, those]) => ({
    atMs: minute * MINUTE_MS,
    rssBytes: Math.min(...those.map(({ rssBytes }) => rssBytes)),
    files: Math.min(...those.map(({ files }) => files)),
  }));
}

/** Least squares, in bytes per hour. */
function slopeOf(points: readonly Sample[]): { slope: number; error: number } {
  const hours = points.map(({ atMs }) => atMs / HOUR_MS);
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const [x, y] = [mean(hours), mean(points.map(({ rssBytes }) => rssBytes))];
  const spread = hours.reduce((sum, hour) => sum + (hour - x) ** 2, 0);
  const products = points.map(({ rssBytes }, i) => (hours[i]! - x) * (rssBytes - y));
  const slope = products.reduce((sum, product) => sum + product, 0) / spread;
  const misses = points.map(({ rssBytes }, i) => (rssBytes - y - slope * (hours[i]! - x)) ** 2);
  const variance = misses.reduce((sum, miss) => sum + miss, 0) / Math.max(points.length - 2, 1);
  return { slope, error: Math.sqrt(variance / spread) };
}
