/** Addresses of servers as they are typed. */
import { invalidArgument } from "@fluxline/kernel/error.ts";

/** @throws AppError unless it has the form HOST:PORT */
export function checkServer(server: string): void {
  if (/^.+:\d{1,5}$/.test(server)) return;
  const description = `is "${server}"; use HOST:PORT, like 127.0.0.1:50051`;
  throw invalidArgument([{ field: "--server", description }], "INVALID_SERVER");
}
