/** The scheduler as a process: reads its settings, starts, says where it listens, drains. */
import { toAppError } from "@fluxline/kernel/error.ts";
import { connectBus } from "@fluxline/platform/bus/connection.ts";
import { describeConfig, readConfig } from "@fluxline/platform/config.ts";
import { Lifecycle } from "@fluxline/platform/lifecycle.ts";
import { createLog } from "@fluxline/platform/log.ts";
import { createRegistry, serveMetrics } from "@fluxline/platform/metrics.ts";
import { realClock } from "@fluxline/platform/real-clock.ts";
import { startScheduler } from "./adapters/scheduler.ts";
import { configTree } from "./config.ts";

async function main(): Promise<number> {
  if (process.argv.includes("--describe-config")) {
    process.stdout.write(describeConfig(configTree));
    return 0;
  }
  process.title = "fluxline scheduler";
  const config = readConfig(configTree, process.env);
  const log = createLog("scheduler", config.logLevel);
  const lifecycle = new Lifecycle(log);
  // Signals count from here on, also while the start is under way.
  const ended = lifecycle.run({ untilStdinEnds: config.untilStdinEnds });
  try {
    const registry = createRegistry("scheduler", { scraped: config.metricsPort >= 0 });
    const bus = await connectBus({
      url: config.natsUrl,
      name: "scheduler",
      user: config.natsUser,
      password: config.natsPassword,
      firstConnectMs: config.natsWaitSeconds * 1000,
      onStatus: (status) => log.info(status, "NATS"),
    });
    lifecycle.add({ name: "NATS", drain: () => bus.drain() });
    for (const warning of bus.warnings) log.warn(warning);
    const { host, port, metricsPort } = config;
    const options = { ...config, bus, clock: realClock, log, registry, address: `${host}:${port}` };
    const server = await startScheduler(options, lifecycle);
    const endpoints: Record<string, string> = { event: "ready", grpc: server.address };
    if (metricsPort >= 0) {
      const page = await serveMetrics(registry, host, metricsPort);
      lifecycle.add({ name: "metrics", drain: () => page.drain() });
      endpoints["metrics"] = page.address;
    }
    process.stdout.write(`${JSON.stringify(endpoints)}\n`);
  } catch (thrown) {
    await lifecycle.drain();
    throw thrown;
  }
  return ended;
}

try {
  process.exit(await main());
} catch (thrown) {
  const { code, reason, message } = toAppError(thrown);
  process.stdout.write(`${JSON.stringify({ event: "failed", code, reason, message })}\n`);
  process.stderr.write(`scheduler: ${message}\n`);
  process.exit(1);
}
