/**
 * Time as a port: cores take `nowMs` as an argument; what needs a clock over time takes this.
 * The real clock lives in `platform`, the simulated one in the simulator.
 */
export interface Clock {
  /** Milliseconds since the Unix epoch. */
  nowMs(): number;
  /** Milliseconds that only grow, for durations. */
  monotonicMs(): number;
}
