/** The facts of this machine's CPU that onnxruntime's kernels go by, read from Linux. */
import { readdirSync, readFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { cpuDeviceClass, cpuInstructions } from "../core/numerics-class.ts";

const CACHES = "/sys/devices/system/cpu/cpu0/cache";

export function readCpuInstructions(): string {
  return cpuInstructions(readFileSync("/proc/cpuinfo", "utf8"));
}

/** The device class of the CPU provider on this machine, for graphs of that run type. */
export function readCpuDeviceClass(runType: string): string {
  const cpuinfo = readFileSync("/proc/cpuinfo", "utf8");
  return cpuDeviceClass(cpuinfo, secondLevelCache(), hostname(), runType);
}

/** Undefined where Linux does not show its caches, as in some sandboxes. */
function secondLevelCache(): string | undefined {
  try {
    const level = readdirSync(CACHES)
      .filter((name) => name.startsWith("index"))
      .find((name) => readFileSync(join(CACHES, name, "level"), "utf8").trim() === "2");
    return level === undefined ? undefined : readFileSync(join(CACHES, level, "size"), "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
