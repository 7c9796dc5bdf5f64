/**
 * What a command gets from the process it runs in, so that no command reads the environment or
 * installs a signal handler of its own.
 */
export type Environment = Readonly<Record<string, string | undefined>>;

export interface Session {
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean };
  readonly stdin: NodeJS.ReadableStream;
  /** Aborts at the first Ctrl-C or SIGTERM. */
  readonly interrupted: AbortSignal;
  /** Passed on to what is started; a command itself reads only the two below. */
  readonly environment: Environment;
  /** Path of nats-server if the environment names one. */
  readonly natsServer: string | undefined;
  /** Folders in which programs are looked for. */
  readonly searchPath: readonly string[];
  /** Runs when the process ends, however it ends short of kill -9; synchronous. */
  onExit(cleanUp: () => void): void;
}

/** Results go to stdout, everything else (progress, warnings, errors) to stderr. */
export function printLine(stream: NodeJS.WritableStream, text: string): void {
  stream.write(`${text}\n`);
}
