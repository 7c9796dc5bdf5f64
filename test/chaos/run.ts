/**
 * One chaos run: requests are kept in flight, the strikes of a plan fall one after another, and
 * each job must end with the bytes that it gives undisturbed, once.
 *
 *   clients --requests--> stack under strikes --pictures--> compared with the undisturbed ones
 *              observer: records, progress, heartbeats  --> judged job by job
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Random } from "@fluxline/kernel/random.ts";
import { ImageJob_State as State } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { type Request, stepsNeeded } from "./catalogue.ts";
import type { Cluster } from "./cluster.ts";
import type { GroupStrike, JobHistory, Loss } from "./job-history.ts";
import type { Observer } from "./observer.ts";
import { blowName, groupStruck, momentName, type Plan, type Strike, victimName } from "./plan.ts";
import { Client } from "./workload.ts";

/** A moment that does not come within this time is not waited for: the strike falls all the same. */
const MOMENT_MS_MAX = 4_000;
/** From a strike until its victim is ready and a job that it hit goes on. */
const RECOVERY_MS_MAX = 90_000;
const LOOK_EVERY_MS = 20;
const HASTY_PAUSE_MS = 150;

export interface StrikeResult {
  readonly strike: Strike;
  /** The moment came; else the strike fell without it. */
  readonly aimed: boolean;
  /** Jobs that the victim had a part in. */
  readonly jobsHit: number;
  /** Until every part was ready again and one of those jobs had gone on; if it was waited for. */
  readonly recoveryMs: number | undefined;
}

export interface RunOptions {
  readonly plan: Plan;
  readonly cluster: Cluster;
  readonly observer: Observer;
  readonly catalogue: readonly Request[];
  /** Of the images of each request of the catalogue, undisturbed. */
  readonly expected: readonly (readonly string[])[];
  readonly clients: number;
  /** Records are purged after so long, for runs that last; undefined: as long as usual. */
  readonly expireMs?: number;
  readonly onStrike?: (result: StrikeResult, number: number) => void;
}

export interface RunResult {
  readonly strikes: readonly StrikeResult[];
  readonly groupStrikes: readonly GroupStrike[];
  readonly jobs: number;
  readonly images: number;
  readonly stepsNeeded: number;
  readonly losses: readonly Loss[];
  /** What must not have happened, in words; empty when all is well. */
  readonly wrong: readonly string[];
}

/** The digests of every request's images, each drawn while nothing else happens. */
export async function drawUndisturbed(
  cluster: Cluster,
  catalogue: readonly Request[],
): Promise<string[][]> {
  const client = new Client(cluster.addresses, 0);
  const digests: string[][] = [];
  for (const request of catalogue) {
    digests.push([...(await client.draw(request, undefined)).digests]);
  }
  client.close();
  return digests;
}

export async function runChaos(options: RunOptions): Promise<RunResult> {
  const run = new ChaosRun(options);
  return run.run();
}

class ChaosRun {
  readonly #options: RunOptions;
  readonly #wrong: string[] = [];
  readonly #strikes: StrikeResult[] = [];
  readonly #groupStrikes: GroupStrike[] = [];
  /** When NATS or a scheduler was struck. */
  readonly #outages: number[] = [];
  readonly #inFlight = new Set<Promise<void>>();
  readonly #losses: Loss[] = [];
  #jobs = 0;
  #images = 0;
  #stepsNeeded = 0;
  #over = false;

  constructor(options: RunOptions) {
    this.#options = options;
  }

  async run(): Promise<RunResult> {
    const { plan, clients, cluster } = this.#options;
    const random = new Random(plan.seed).fork();
    const working = Array.from({ length: clients }, (_, i) => this.#work(i, random.fork()));
    await this.#untilBusy();
    for (const strike of plan.strikes) {
      if (this.#wrong.length > 0) break;
      const result = await this.#strike(strike);
      this.#strikes.push(result);
      this.#options.onStrike?.(result, this.#strikes.length);
    }
    this.#over = true;
    await Promise.all(working);
    await cluster.untilReady();
    await this.#untilIdle();
    for (const { member, how } of cluster.unplanned) {
      this.#wrong.push(`${member} died (${how}) though nothing struck it`);
    }
    return {
      strikes: this.#strikes,
      groupStrikes: this.#groupStrikes,
      jobs: this.#jobs,
      images: this.#images,
      stepsNeeded: this.#stepsNeeded,
      losses: this.#losses,
      wrong: this.#wrong,
    };
  }

  // --- requests --------------------------------------------------------------------------------

  async #work(number: number, random: Random): Promise<void> {
    const { cluster, catalogue, expireMs } = this.#options;
    const client = new Client(cluster.addresses, number);
    while (!this.#over && this.#wrong.length === 0) {
      const which = random.below(catalogue.length);
      const request = catalogue[which]!;
      try {
        const { id, digests } = await client.draw(request, expireMs);
        await this.#judge(id, which, digests);
      } catch (thrown) {
        this.#wrong.push(`request ${which}: ${thrown instanceof Error ? thrown.message : thrown}`);
      }
    }
    client.close();
  }

  async #judge(id: string, which: number, digests: readonly string[]): Promise<void> {
    const { catalogue, expected, observer } = this.#options;
    const request = catalogue[which]!;
    const right = expected[which]!;
    if (digests.length !== right.length || digests.some((digest, i) => digest !== right[i])) {
      this.#wrong.push(`${id}: request ${which} does not have the bytes of the undisturbed run`);
    }
    const history = observer.history(id);
    // The client may hear of the end before we do.
    await until(() => history.ends > 0, RECOVERY_MS_MAX);
    for (const what of history.judge(this.#groupStrikes)) this.#wrong.push(`${id}: ${what}`);
    this.#losses.push(...history.losses(this.#outages));
    this.#jobs += 1;
    this.#images += digests.length;
    this.#stepsNeeded += stepsNeeded(request);
    history.forgetSteps();
  }

  // --- strikes ---------------------------------------------------------------------------------

  async #strike(strike: Strike): Promise<StrikeResult> {
    const aimed = await this.#untilMoment(strike);
    const struck = groupStruck(strike);
    const hit = this.#hitBy(strike);
    if (struck !== undefined) {
      const drained = strike.blow.kind === "drain";
      this.#groupStrikes.push({ group: `g${struck}`, atMs: performance.now(), drained });
    }
    const begunMs = performance.now();
    if (!("group" in strike.victim)) this.#outages.push(begunMs);
    this.#options.observer.note(`STRIKE ${strikeText({ strike, aimed })}`);
    const steps = new Map(hit.map((history) => [history, history.progressMark]));
    const landing = this.#land(strike);
    if (strike.hasty) {
      this.#inFlight.add(landing.finally(() => this.#inFlight.delete(landing)));
      await sleep(HASTY_PAUSE_MS);
      return { strike, aimed, jobsHit: hit.length, recoveryMs: undefined };
    }
    await landing;
    await Promise.all(this.#inFlight);
    await this.#options.cluster.untilReady();
    const goesOn = (history: JobHistory): boolean =>
      history.ends > 0 || history.progressMark > (steps.get(history) ?? 0);
    const goOn = (): boolean => hit.length === 0 || hit.some(goesOn);
    await until(() => this.#wrong.length > 0 || goOn(), RECOVERY_MS_MAX);
    const recoveryMs = performance.now() - begunMs;
    return { strike, aimed, jobsHit: hit.length, recoveryMs };
  }

  async #untilMoment({ moment, victim }: Strike): Promise<boolean> {
    if (moment.kind === "after") {
      await sleep(moment.ms);
      return true;
    }
    const group = "group" in victim ? `g${victim.group}` : undefined;
    const came = await this.#options.observer.untilMoment(group, moment, MOMENT_MS_MAX);
    if (moment.kind === "phase" && moment.thenMs > 0) await sleep(moment.thenMs);
    return came;
  }

  /** Resolves once the blow is over; the victim may still be starting. */
  async #land({ victim, blow }: Strike): Promise<void> {
    const { cluster } = this.#options;
    if (victim.part === "nats") return this.#strikeNats(blow);
    switch (blow.kind) {
      case "kill":
        if (victim.part === "runner") return void cluster.killRunner(victim);
        await cluster.member(victim).end("SIGKILL");
        return;
      case "drain": {
        const member = cluster.member(victim);
        const wasReady = member.isReady;
        const code = await cluster.drain(victim);
        // The next strike need not wait for the end of a hasty one.
        if (wasReady && code !== 0 && !member.wasKilled) {
          this.#wrong.push(`${member.spec.name} ended with ${code} when it was drained`);
        }
        return;
      }
      case "freeze": {
        if (victim.part !== "group") throw new Error(`${victimName(victim)} cannot be frozen`);
        const thaw = cluster.freeze(victim.group);
        await sleep(blow.holdMs);
        thaw();
      }
    }
  }

  async #strikeNats(blow: Strike["blow"]): Promise<void> {
    const { nats } = this.#options.cluster;
    if (blow.kind !== "freeze") return nats.restart();
    nats.pause();
    await sleep(blow.holdMs);
    nats.resume();
  }

  #hitBy({ victim }: Strike): JobHistory[] {
    const group = "group" in victim ? `g${victim.group}` : undefined;
    return this.#unended().filter(
      ({ attempts }) => group === undefined || attempts.at(-1)?.group === group,
    );
  }

  #unended(): JobHistory[] {
    return [...this.#options.observer.jobs.values()].filter(({ ends }) => ends === 0);
  }

  async #untilBusy(): Promise<void> {
    await until(() => this.#unended().some(({ state }) => state === State.STATE_RUNNING), 60_000);
  }

  /** No group may hold anything that no record knows. */
  async #untilIdle(): Promise<void> {
    const { residents } = this.#options.observer;
    const idle = (): boolean => [...residents.values()].every((count) => count === 0);
    try {
      await until(idle, RECOVERY_MS_MAX);
    } catch {
      const held = [...residents].map(([group, count]) => `${group}: ${count}`).join(", ");
      this.#wrong.push(`groups still hold jobs when every job has ended: ${held}`);
    }
  }
}

async function until(condition: () => boolean, msMax: number): Promise<void> {
  const deadlineMs = performance.now() + msMax;
  while (!condition()) {
    if (performance.now() > deadlineMs) throw new Error(`not within ${msMax} ms: ${condition}`);
    await sleep(LOOK_EVERY_MS);
  }
}

/** A strike in one line. */
function strikeText({ strike, aimed }: Pick<StrikeResult, "strike" | "aimed">): string {
  const { victim, blow, moment, hasty } = strike;
  const when = `${momentName(moment)}${aimed ? "" : " (did not come)"}${hasty ? ", hasty" : ""}`;
  return `${victimName(victim)}: ${blowName(blow)}, ${when}`;
}
