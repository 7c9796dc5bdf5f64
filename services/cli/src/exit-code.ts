/** The exit codes of `fluxline`, which scripts may rely on. */
export const exitCode = {
  ok: 0,
  /** The work failed; the error says why. */
  failed: 1,
  /** The command line itself is wrong; nothing was started. */
  usage: 2,
  /** Ctrl-C or SIGTERM. */
  interrupted: 130,
} as const;

export type ExitCode = (typeof exitCode)[keyof typeof exitCode];
