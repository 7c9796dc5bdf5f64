/**
 * `fluxline generate`: with a server, a plain client; without one, a stack of its own in a temporary
 * folder, which is gone afterwards however the command ends.
 */
import { invalidArgument } from "@fluxline/kernel/error.ts";
import { exitCode, type ExitCode } from "../exit-code.ts";
import { checkValues } from "../failure.ts";
import {
  checkFolder,
  checkOutput,
  chooseFormat,
  type ImageFormat,
  type OutputPlan,
} from "../output-file.ts";
import { checkServer } from "../server/address.ts";
import { checkTexts, readPrompt } from "../prompt.ts";
import type { Session } from "../session.ts";
import type { NodeOptions } from "../stack/stack-layout.ts";
import type { DrawOptions } from "./draw.ts";
import { fetchedModel } from "./models.ts";

/** Of one step; what a GPU node takes by itself. */
const rowsMax = 4;

type PrivateNode = Omit<NodeOptions, "stages" | "groups">;

export interface GenerateOptions extends Omit<DrawOptions, "begunMs">, PrivateNode {
  readonly server?: string;
  readonly format?: ImageFormat;
  readonly output?: string;
  readonly overwrite: boolean;
  readonly previewDir?: string;
}

export async function generate(
  promptOrDash: string,
  given: GenerateOptions,
  session: Session,
): Promise<ExitCode> {
  const options = { ...given, begunMs: performance.now() };
  const { prompt, plan } = await checkValues(() => checkAll(promptOrDash, options, session));
  const { server } = options;
  if (server !== undefined) {
    const { draw } = await import("./draw.ts");
    await draw(async () => server, prompt, options, plan, session);
    return exitCode.ok;
  }
  const { startPrivateStack } = await import("../stack/private-stack.ts");
  const model = await fetchedModel(options.model, session, options.json);
  const stack = await startPrivateStack({ ...options, ...planned(options), model }, session);
  try {
    // Loaded now, while the children start: that takes longer.
    const { draw } = await import("./draw.ts");
    const drawn = draw((view) => stack.untilReady(view), prompt, options, plan, session);
    await Promise.race([drawn, stack.failed]);
  } finally {
    await stack.stop();
  }
  return exitCode.ok;
}

/** What can be known to be wrong before anything starts. */
async function checkAll(
  promptOrDash: string,
  options: GenerateOptions,
  session: Session,
): Promise<{ prompt: string; plan: OutputPlan }> {
  const { output, overwrite, count = 1, server, previews, previewDir } = options;
  if (server !== undefined) checkServer(server);
  const format = chooseFormat(options.format, output);
  const prompt = await readPrompt(promptOrDash, session.stdin);
  const { prompt2 = "", negativePrompt = "" } = options;
  checkTexts({ PROMPT: prompt, "--prompt-2": prompt2, "--negative-prompt": negativePrompt });
  const plan: OutputPlan = { file: output, overwrite, format, count };
  checkOutput(plan);
  if (previewDir !== undefined) {
    if (previews === undefined) {
      const description = "is of no use without --previews N; say how many";
      throw invalidArgument([{ field: "--preview-dir", description }]);
    }
    checkFolder("--preview-dir", previewDir);
  }
  return { prompt, plan };
}

/** Devices are planned for the very picture that is asked for. */
function planned(options: GenerateOptions): Partial<NodeOptions> {
  const { devices, width, height, count = 1, trueCfgScale = 1, negativePrompt } = options;
  if (devices === undefined) return {};
  const rows = count * (trueCfgScale > 1 && negativePrompt !== undefined ? 2 : 1);
  const maxBatch = String(Math.min(rows, rowsMax));
  const isSized = width !== undefined && height !== undefined;
  return { maxBatch, ...(isSized && { maxSize: `${width}x${height}` }) };
}
