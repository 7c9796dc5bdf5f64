/**
 * The sessions of a runner. Most stay open from the start. A sequential graph is opened for a call
 * and closed after it, so that its weights and whatever else runs on the device are never there at
 * the same time:
 *
 *   - it is closed before a graph of another name runs, and when no call has come for LINGER_MS;
 *   - calls for it that come one after another (texts of a request, images, tiles) load it once;
 *   - at the start it is opened and closed again, so that weights that do not load are found then.
 */
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import type { GraphDefinition } from "../../core/image-model.ts";
import type { DeviceBackend, GraphSession } from "./backend.ts";

/** Longer than a driver takes between two images, too short to be in anybody's way. */
const LINGER_MS = 250;

export interface UsedSession {
  readonly session: GraphSession;
  /** What opening it for this very call took; undefined when it was open. */
  readonly loadSeconds: number | undefined;
}

export class GraphSessions {
  readonly #backend: DeviceBackend;
  readonly #kept = new Map<string, GraphSession>();
  readonly #sequential = new Map<string, GraphDefinition>();
  #open: { readonly name: string; readonly session: GraphSession } | undefined;
  #closing: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;

  constructor(backend: DeviceBackend) {
    this.#backend = backend;
  }

  async load(graph: GraphDefinition, sequential: boolean): Promise<void> {
    await this.#closeOpen();
    const session = await this.#backend.open(graph);
    if (!sequential) {
      this.#kept.set(graph.name, session);
      return;
    }
    await session.close();
    // The frame that it came in goes; the graph itself is small.
    this.#sequential.set(graph.name, { ...graph, onnx: graph.onnx.slice() });
  }

  /** The session of a graph; one that is not kept is open until `rest` and a while after it. */
  async use(name: string): Promise<UsedSession> {
    clearTimeout(this.#timer);
    if (this.#open?.name === name) return { session: this.#open.session, loadSeconds: undefined };
    await this.#closeOpen();
    const kept = this.#kept.get(name);
    if (kept !== undefined) return { session: kept, loadSeconds: undefined };
    const graph = this.#sequential.get(name);
    if (graph === undefined) {
      throw new AppError("failed_precondition", `graph ${name} is not loaded`);
    }
    const begun = performance.now();
    const session = await this.#reopen(graph);
    this.#open = { name, session };
    return { session, loadSeconds: (performance.now() - begun) / 1000 };
  }

  /** The call is over. */
  rest(): void {
    if (this.#open === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#closeOpen(), LINGER_MS);
  }

  /** It did load at the start: what has changed since is not the request's fault. */
  async #reopen(graph: GraphDefinition): Promise<GraphSession> {
    try {
      return await this.#backend.open(graph);
    } catch (thrown) {
      const { code, message, reason, details, cause } = toAppError(thrown);
      const what = `${message}; it is loaded for each use (--sequential), and did load at the start`;
      throw new AppError(code, what, { reason, details, cause, retryable: true });
    }
  }

  #closeOpen(): Promise<void> {
    const open = this.#open;
    this.#open = undefined;
    if (open !== undefined) this.#closing = this.#closing.then(() => open.session.close());
    return this.#closing;
  }
}
