/** What guards a stream besides TLS: one machine's memory, or checksums and a warning. */
import { isLocal, type LinkAddress, linkAddressText } from "./link-address.ts";
import type { LinkSecurity } from "./link-security.ts";

export interface LinkLog {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
}

/** TCP's own checksum lets one wrong packet in 65,536 pass; TLS and local sockets do not. */
export function needsChecksum(address: LinkAddress, security: LinkSecurity | undefined): boolean {
  return security === undefined && !isLocal(address);
}

export function warnIfPlain(
  address: LinkAddress,
  security: LinkSecurity | undefined,
  log: LinkLog,
): void {
  if (security !== undefined || isLocal(address)) return;
  const facts = { address: linkAddressText(address) };
  log.warn(facts, "the stage link is not encrypted and checks no certificate; configure TLS files");
}
