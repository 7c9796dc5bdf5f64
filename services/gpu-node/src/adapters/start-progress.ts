/** What a rank that starts is busy with, if that can take minutes: for whoever waits for it. */
export interface StartProgress {
  readonly what: string;
  readonly done: number;
  readonly total: number;
  readonly unit: "bytes" | "files";
}
