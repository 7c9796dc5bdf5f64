/** What `fluxline devices` shows of the GPU node's answer. */
import { byteText } from "./byte-text.ts";
import { textTable } from "./text-table.ts";

/** As the GPU node's program prints it. */
export interface DeviceList {
  readonly cpu: {
    readonly model: string;
    readonly cores: number;
    readonly instructions: string;
    readonly memoryBytes: number;
  };
  readonly providers: readonly {
    readonly name: string;
    readonly available: boolean;
    readonly detail: string;
  }[];
}

export function describeDevices({ cpu, providers }: DeviceList): string {
  const rows = providers.map(({ name, available, detail }) => [
    name,
    available ? "yes" : "no",
    detail.split("\n")[0] ?? "",
  ]);
  return [
    `CPU     ${cpu.model}, ${cpu.cores} cores, ${cpu.instructions}`,
    `memory  ${byteText(cpu.memoryBytes)}`,
    "",
    textTable(["provider", "usable", "why"], rows),
  ].join("\n");
}
