/** Where a stage listens: `unix:/run/fluxline/stage-1.sock` or `tcp://g0-1.stages:7400`. */
import { isIP } from "node:net";
import { invalidArgument } from "@fluxline/kernel/error.ts";

export type LinkAddress =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

/** What Linux takes for a socket, less room for the name under which it is made. */
const PATH_BYTES_MAX = 95;
const PORT_MAX = 65_535;
const EXAMPLES = "use unix:/run/stage-1.sock or tcp://host:7400";

/** Throws INVALID_ADDRESS, with `field` as the name of what was wrong. Port 0: any free one. */
export function parseLinkAddress(text: string, field: string): LinkAddress {
  if (text.startsWith("unix:")) return unixAddress(text.slice("unix:".length), text, field);
  const tcp = /^tcp:\/\/(?:\[([0-9a-fA-F:.]+)\]|([^:/[\]\s]+)):(\d{1,5})$/.exec(text);
  if (tcp === null) throw invalid(field, `is "${text}"; ${EXAMPLES}`);
  const [, bracketed, plain, port] = tcp;
  if (bracketed !== undefined && isIP(bracketed) !== 6) {
    throw invalid(field, `is "${text}", whose host is no IPv6 address; ${EXAMPLES}`);
  }
  if (Number(port) > PORT_MAX) {
    throw invalid(field, `is "${text}"; a port is at most ${PORT_MAX}`);
  }
  return { kind: "tcp", host: (bracketed ?? plain)!, port: Number(port) };
}

export function linkAddressText(address: LinkAddress): string {
  if (address.kind === "unix") return `unix:${address.path}`;
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return `tcp://${host}:${address.port}`;
}

/** Nobody outside this machine can reach it. */
export function isLocal(address: LinkAddress): boolean {
  if (address.kind === "unix") return true;
  const { host } = address;
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}

function unixAddress(path: string, text: string, field: string): LinkAddress {
  if (!path.startsWith("/")) {
    throw invalid(field, `is "${text}"; give the whole path, as in unix:/run/stage-1.sock`);
  }
  const bytes = Buffer.byteLength(path);
  if (bytes > PATH_BYTES_MAX) {
    throw invalid(field, `has a path of ${bytes} bytes; use at most ${PATH_BYTES_MAX}`);
  }
  return { kind: "unix", path };
}

function invalid(field: string, description: string) {
  return invalidArgument([{ field, description }], "INVALID_ADDRESS");
}
