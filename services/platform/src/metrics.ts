/** Prometheus metrics of a process, and the page they are scraped from. */
import { createServer } from "node:http";
import { AppError } from "@fluxline/kernel/error.ts";
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";

export { Counter, Gauge, Histogram, Registry };

/** From fast answers to long pictures. */
export const durationBucketsSeconds = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 120];

/**
 * `scraped`: somebody may read it. Only then are the figures of the process itself collected: to
 * know the delay of the event loop it is woken a hundred times a second, 1% of a core.
 */
export function createRegistry(service: string, { scraped }: { scraped: boolean }): Registry {
  const registry = new Registry();
  registry.setDefaultLabels({ service });
  if (scraped) collectDefaultMetrics({ register: registry });
  return registry;
}

export interface MetricsPage {
  readonly address: string;
  drain(): Promise<void>;
}

/** Serves `/metrics` for Prometheus. */
export async function serveMetrics(
  registry: Registry,
  host: string,
  port: number,
): Promise<MetricsPage> {
  const server = createServer((request, response) => {
    if (request.method !== "GET" || request.url !== "/metrics") {
      response.writeHead(404).end("the metrics are at /metrics\n");
      return;
    }
    registry.metrics().then(
      (page) => response.writeHead(200, { "content-type": registry.contentType }).end(page),
      (thrown) => response.writeHead(500).end(String(thrown)),
    );
  });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen(port, host, resolve);
  await promise.catch((cause: Error) => {
    throw new AppError(
      "failed_precondition",
      `cannot serve metrics on ${host}:${port} (${cause.message}): choose another port`,
      { reason: "ADDRESS_UNAVAILABLE", cause },
    );
  });
  const bound = server.address();
  const boundPort = typeof bound === "object" && bound !== null ? bound.port : port;
  return {
    address: `${host}:${boundPort}`,
    async drain() {
      const closed = new Promise((done) => server.close(done));
      server.closeAllConnections();
      await closed;
    },
  };
}
