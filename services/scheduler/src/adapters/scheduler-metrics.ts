/** What Prometheus sees of a scheduler. */
import { Counter, durationBucketsSeconds, Gauge, Histogram } from "@fluxline/platform/metrics.ts";
import type { Registry } from "@fluxline/platform/metrics.ts";
import type { EndedCall } from "@fluxline/platform/grpc/server.ts";
import type { PoolFigures } from "../core/pool-leader.ts";

export class SchedulerMetrics {
  readonly #events: Counter;
  readonly #calls: Histogram;

  constructor(registry: Registry, figures: () => ReadonlyMap<string, PoolFigures>) {
    const registers = [registry];
    this.#events = new Counter({
      name: "fluxline_scheduler_leader_events_total",
      help: "What the leader of a pool decided, by kind.",
      labelNames: ["pool", "event", "label"],
      registers,
    });
    this.#calls = new Histogram({
      name: "fluxline_grpc_server_duration_seconds",
      help: "Duration of gRPC calls by method and outcome; streams last as long as their job.",
      labelNames: ["method", "code"],
      buckets: durationBucketsSeconds,
      registers,
    });
    const figure = (name: string, help: string, value: (figures: PoolFigures) => number) =>
      new Gauge({
        name,
        help,
        labelNames: ["pool"],
        registers,
        collect() {
          this.reset();
          for (const [pool, each] of figures()) this.set({ pool }, value(each));
        },
      });
    figure(
      "fluxline_scheduler_queued_jobs",
      "Jobs that wait; from the leader.",
      (f) => f.queuedJobs,
    );
    figure(
      "fluxline_scheduler_active_jobs",
      "Jobs on groups; from the leader.",
      (f) => f.activeJobs,
    );
    figure("fluxline_scheduler_groups", "Replica groups known; from the leader.", (f) => f.groups);
  }

  count(pool: string, event: string, label: string): void {
    this.#events.inc({ pool, event, label });
  }

  callEnded({ method, durationMs, error }: EndedCall): void {
    this.#calls.observe({ method, code: error?.code ?? "ok" }, durationMs / 1000);
  }
}
