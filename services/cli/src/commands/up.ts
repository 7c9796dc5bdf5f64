/**
 * `fluxline up`: a stack on this machine until Ctrl-C, on a data folder that it has for itself.
 */
import { join } from "node:path";
import { exitCode, type ExitCode } from "../exit-code.ts";
import { isInterruption, unlessInterrupted } from "../interruption.ts";
import { printLine, type Session } from "../session.ts";
import { openDataFolder } from "../stack/data-folder.ts";
import { findNatsServer } from "../stack/nats-server.ts";
import { claimPort } from "../stack/port.ts";
import { Stack, type StackMember } from "../stack/stack.ts";
import type { NodeOptions } from "../stack/stack-layout.ts";
import type { StackEvent } from "../stack/supervisor.ts";
import { durationText } from "../view/pace.ts";
import { progressText } from "../view/progress-text.ts";
import { textTable } from "../view/text-table.ts";
import { fetchedModel } from "./models.ts";

export interface UpOptions extends NodeOptions {
  readonly port: number;
  readonly natsPort: number;
  readonly data: string;
  readonly json: boolean;
}

export async function up(options: UpOptions, session: Session): Promise<ExitCode> {
  const say = teller(options.json, session);
  const natsServer = findNatsServer(session);
  const folder = openDataFolder(options.data);
  session.onExit(() => folder.release());
  let stack: Stack | undefined;
  try {
    const port = await claimPort(options.port, "--port");
    const natsPort = await claimPort(options.natsPort, "--nats-port");
    const begunMs = performance.now();
    const model = await fetchedModel(options.model, session, options.json);
    say({ event: "starting" }, `starting with ${model} ...`);
    const { path, logFile } = folder;
    const { environment } = session;
    const onEvent = (event: StackEvent) => say({ event: event.kind, ...event }, eventText(event));
    stack = await Stack.spawn({
      folder: path,
      logFile,
      natsServer,
      environment,
      natsPort,
      port,
      node: { ...options, model },
      onEvent,
    });
    const running = stack;
    session.onExit(() => running.kill());
    await unlessInterrupted(session.interrupted, running.untilReady());
    sayReady(running, path, performance.now() - begunMs, say);
    await unlessInterrupted(session.interrupted, running.failed);
    return exitCode.ok;
  } catch (thrown) {
    // Before it started anything there is nothing to drain.
    if (!isInterruption(thrown) || stack === undefined) throw thrown;
    say(
      { event: "draining" },
      "draining: work in hand is handed back; Ctrl-C again ends it at once",
    );
    return exitCode.ok;
  } finally {
    await stack?.stop();
    folder.release();
    if (stack !== undefined) say({ event: "stopped" }, "stopped");
  }
}

type Say = (event: object, text: string) => void;

function teller(json: boolean, { stdout }: Session): Say {
  return (event, text) => printLine(stdout, json ? JSON.stringify(event) : text);
}

function sayReady(stack: Stack, folder: string, tookMs: number, say: Say): void {
  const { address, natsUrl, members } = stack;
  const text = [
    `ready after ${durationText(tookMs)}`,
    "",
    `  gRPC    ${address}    fluxline.v1.ImageService, with reflection and health`,
    `  NATS    ${natsUrl}`,
    `  data    ${folder}`,
    `  logs    ${join(folder, "logs")}`,
    "",
    ...memberTable(members),
    "",
    `  npx fluxline generate "a red circle on a blue background" --server ${address}`,
    "",
    "Ctrl-C drains and stops.",
  ];
  say({ event: "ready", address, nats: natsUrl, folder, processes: members }, text.join("\n"));
}

function memberTable(members: readonly StackMember[]): string[] {
  const rows = members.map(({ name, pid, device = "" }) => [name, String(pid), device]);
  const lines = textTable(["process", "pid", "computes on"], rows).split("\n");
  return lines.map((line) => `  ${line}`);
}

function eventText(event: StackEvent): string {
  switch (event.kind) {
    case "died":
      return `${event.child} died (${event.how}); starting it again. Its log: ${event.log}`;
    case "restarted":
      return `${event.child} runs again as process ${event.pid}`;
    case "progress":
      return progressText(event);
  }
}
