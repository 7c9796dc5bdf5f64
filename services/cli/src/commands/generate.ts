/**
 * `fluxline generate`: with a server, a plain client; without one, a stack of its own in a temporary
 * folder, which is gone afterwards however the command ends.
 */
import { exitCode, type ExitCode } from "../exit-code.ts";
import { checkOutput, chooseFormat, type ImageFormat, type OutputPlan } from "../output-file.ts";
import { checkTexts, readPrompt } from "../prompt.ts";
import type { Session } from "../session.ts";
import type { NodeOptions } from "../stack/stack-layout.ts";
import type { DrawOptions } from "./draw.ts";

type PrivateNode = Omit<NodeOptions, "stages" | "groups">;

export interface GenerateOptions extends Omit<DrawOptions, "begunMs">, PrivateNode {
  readonly server?: string;
  readonly format?: ImageFormat;
  readonly output?: string;
  readonly overwrite: boolean;
}

export async function generate(
  promptOrDash: string,
  given: GenerateOptions,
  session: Session,
): Promise<ExitCode> {
  const options = { ...given, begunMs: performance.now() };
  const format = chooseFormat(options.format, options.output);
  const prompt = await readPrompt(promptOrDash, session.stdin);
  const { prompt2 = "", negativePrompt = "", overwrite, server } = options;
  checkTexts({ PROMPT: prompt, "--prompt-2": prompt2, "--negative-prompt": negativePrompt });
  const plan: OutputPlan = { file: options.output, overwrite, format, count: options.count ?? 1 };
  checkOutput(plan);
  if (server !== undefined) {
    const { draw } = await import("./draw.ts");
    await draw(async () => server, prompt, options, plan, session);
    return exitCode.ok;
  }
  const { startPrivateStack } = await import("../stack/private-stack.ts");
  const stack = await startPrivateStack(options, session);
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
