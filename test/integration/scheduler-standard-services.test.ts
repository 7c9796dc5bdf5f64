/** Health and reflection, as grpcurl and load balancers use them. */
import { credentials, loadPackageDefinition } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { protoPath } from "grpc-health-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type NatsServer, startNats } from "../support/nats.ts";
import { type SchedulerProcess, startScheduler } from "../support/scheduler-process.ts";

let nats: NatsServer;
let scheduler: SchedulerProcess;

beforeAll(async () => {
  nats = await startNats();
  scheduler = await startScheduler(nats.url, { FLUXLINE_METRICS_PORT: "0" });
});

afterAll(async () => {
  await scheduler?.terminate();
  await nats?.close();
});

interface Loose {
  [name: string]: Loose & (new (address: string, credentials: unknown) => LooseClient);
}
interface LooseClient {
  Check(request: object, done: (error: Error | null, reply: { status: string }) => void): void;
  ServerReflectionInfo(): NodeJS.ReadWriteStream & { write(request: object): void };
  close(): void;
}

function load(path: string): Loose {
  const options = { keepCase: true, enums: String, defaults: true, oneofs: true };
  return loadPackageDefinition(loadSync(path, options)) as unknown as Loose;
}

test("health says SERVING for the server and for the service", async () => {
  const client = new (load(protoPath)["grpc"]!["health"]!["v1"]!["Health"]!)(
    scheduler.address,
    credentials.createInsecure(),
  );
  for (const service of ["", "fluxline.v1.ImageService"]) {
    const status = await new Promise((resolve, reject) =>
      client.Check({ service }, (error, reply) => (error ? reject(error) : resolve(reply.status))),
    );
    expect(status).toBe("SERVING");
  }
  client.close();
});

describe("reflection", () => {
  const folder = new URL(import.meta.resolve("@grpc/reflection")).pathname.split("/build/")[0];
  test.each(["v1", "v1alpha"])(
    "%s lists the services, health too, and describes them",
    async (version) => {
      const path = `${folder}/build/proto/grpc/reflection/${version}/reflection.proto`;
      const Service = load(path)["grpc"]!["reflection"]![version]!["ServerReflection"]!;
      const client = new Service(scheduler.address, credentials.createInsecure());
      const ask = async (request: object): Promise<Record<string, never>> => {
        const call = client.ServerReflectionInfo();
        const reply = new Promise((resolve, reject) =>
          call.on("data", resolve).on("error", reject),
        );
        call.write(request);
        const answer = await reply;
        call.end();
        return answer as Record<string, never>;
      };
      const listed = await ask({ list_services: "" });
      expect(JSON.stringify(listed)).toContain("fluxline.v1.ImageService");
      expect(JSON.stringify(listed)).toContain("grpc.health.v1.Health");
      const symbols = {
        "fluxline.v1.ImageService": "CreateImageJob",
        "grpc.health.v1.Health": "Check",
      };
      for (const [symbol, method] of Object.entries(symbols)) {
        const described = await ask({ file_containing_symbol: symbol });
        const { file_descriptor_response: files } = described as Record<
          string,
          { file_descriptor_proto: Buffer[] }
        >;
        expect(files?.file_descriptor_proto.length).toBeGreaterThan(0);
        expect(Buffer.concat(files?.file_descriptor_proto ?? []).includes(method)).toBe(true);
      }
      client.close();
    },
  );
});
