/** Draws what the study found: goodput over batching gain, and how far step batching is ahead. */
import { writeFileSync } from "node:fs";
import sharp from "sharp";
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import type { Comparison } from "./comparison.ts";
import type { Estimate } from "./statistics.ts";

export interface GainResult {
  readonly gain: number;
  readonly comparison: Comparison;
}

const POLICIES = ["step batching", "request batching, tuned", "one by one"];
const COLOURS = ["#0072b2", "#d55e00", "#555555"];
const OVER = ["over request batching", "over one by one"];
const AIM = 1.5;
const TICKS = [0.2, 0.5, 1, 1.5, 2, 5, 10, 20, 50];
/** Pixels of the PNG for one of the SVG. */
const PNG_SCALE = 2;

export async function drawGoodput(results: readonly GainResult[], path: string): Promise<void> {
  const view = new View(parse(compile(plotSpec(results)).spec), { renderer: "none" });
  const svg = await view.toSVG();
  view.finalize();
  writeFileSync(`${path}.svg`, `${svg}\n`);
  const density = 72 * PNG_SCALE;
  await sharp(Buffer.from(svg), { density })
    .flatten({ background: "white" })
    .png()
    .toFile(`${path}.png`);
}

export function plotSpec(results: readonly GainResult[]): TopLevelSpec {
  const size = { width: 340, height: 300 };
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    background: "white",
    padding: 12,
    config: {
      font: "sans-serif",
      axis: { labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
      legend: { labelFontSize: 12, labelLimit: 0, orient: "bottom", direction: "vertical" },
      title: { fontSize: 14, subtitleFontSize: 12, anchor: "start", frame: "group", offset: 12 },
    },
    hconcat: [
      {
        ...size,
        title: {
          text: "Goodput within the SLO",
          subtitle: "1 = what the device does one by one, never idle",
        },
        data: { values: policyRows(results) },
        layer: curves("relative requests/s", POLICIES, COLOURS),
      },
      {
        ...size,
        title: {
          text: "Step batching over the others",
          subtitle: "ratio of goodputs; dashed: 1 and the aim, 1.5",
        },
        data: { values: ratioRows(results) },
        layer: [line(1), line(AIM), ...curves("ratio", OVER, COLOURS.slice(1))],
      },
    ],
    resolve: { scale: { color: "independent" } },
  };
}

/** A line through the means, and the intervals as an area behind it. */
function curves(title: string, names: string[], range: string[]) {
  const x = {
    field: "gain",
    type: "quantitative" as const,
    scale: { domain: [1, 3], nice: false },
    axis: { title: "batching gain per doubling of the batch", values: [1, 1.5, 2, 2.5, 3] },
  };
  const y = {
    type: "quantitative" as const,
    scale: { type: "log" as const, nice: false },
    axis: { title, values: TICKS, format: "~g" },
  };
  const color = {
    field: "name",
    type: "nominal" as const,
    scale: { domain: names, range },
    legend: { title: null, symbolOpacity: 1, symbolType: "stroke" as const, symbolStrokeWidth: 3 },
  };
  return [
    {
      mark: { type: "line" as const, point: true, strokeWidth: 2 },
      encoding: { x, y: { ...y, field: "mean" }, color },
    },
    {
      mark: { type: "area" as const, opacity: 0.2 },
      encoding: {
        x,
        y: { ...y, field: "low" },
        y2: { field: "high" },
        color,
      },
    },
  ];
}

function line(value: number) {
  return {
    data: { values: [{ value }] },
    mark: { type: "rule" as const, strokeDash: [4, 3], color: "#888888" },
    encoding: { y: { field: "value", type: "quantitative" as const } },
  };
}

interface PlotRow {
  readonly gain: number;
  readonly name: string;
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

function policyRows(results: readonly GainResult[]): PlotRow[] {
  return results.flatMap(({ gain, comparison }) => {
    const { stepBatching, requestBatching, oneByOne } = comparison;
    return [stepBatching, requestBatching, oneByOne].flatMap((found, index) =>
      plotRow(gain, POLICIES[index]!, found),
    );
  });
}

function ratioRows(results: readonly GainResult[]): PlotRow[] {
  return results.flatMap(({ gain, comparison }) => {
    const { overRequestBatching, overOneByOne } = comparison;
    return [overRequestBatching, overOneByOne].flatMap((found, index) =>
      plotRow(gain, OVER[index]!, found),
    );
  });
}

/** Nothing where a logarithm has no place. */
function plotRow(gain: number, name: string, found: Estimate | undefined): PlotRow[] {
  if (found === undefined || found.mean <= 0) return [];
  const { mean, margin } = found;
  return [{ gain, name, mean, low: Math.max(mean - margin, mean / 10), high: mean + margin }];
}
