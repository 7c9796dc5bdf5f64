/** What set-up says to a person: one line when a step begins or ends, with its time. */

const startedAt = Date.now();

const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

export function say(text) {
  process.stdout.write(`[setup ${seconds(Date.now() - startedAt).padStart(7)}] ${text}\n`);
}

/** A step that cannot work: what happened, and what a person can do about it. */
export class SetupError extends Error {
  /** @param {string} message @param {readonly string[]} waysOut */
  constructor(message, waysOut) {
    super(message);
    this.name = "SetupError";
    this.waysOut = waysOut;
  }
}

/** Runs a step that takes time; says when it begins, and how long it took. */
export async function step(title, work) {
  say(`${title} ...`);
  const begun = Date.now();
  const outcome = await work();
  say(`${title}: done in ${seconds(Date.now() - begun)}${outcome ? `, ${outcome}` : ""}`);
}
