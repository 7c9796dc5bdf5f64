/**
 * Who speaks on a stage link, and who may: two processes talk only if they are ranks of one group
 * and would compute the same thing, so that two revisions never mix in one picture.
 */
import { AppError, type FieldViolation } from "@fluxline/kernel/error.ts";

export interface LinkIdentity {
  readonly role: "driver" | "stage";
  readonly pool: string;
  readonly group: string;
  /** One start of the process; the driver's is the incarnation of the group. */
  readonly incarnation: string;
  /** 0 is the driver. */
  readonly rank: number;
  readonly stages: number;
  /** Of the cuts and of what is placed where. */
  readonly planDigest: string;
  readonly modelDigest: string;
  readonly numericsClass: string;
}

/** Versions of the messages that a side understands. */
export interface ProtocolRange {
  readonly min: number;
  readonly max: number;
}

export interface ExpectedPeer {
  readonly role: LinkIdentity["role"];
  readonly rank: number;
}

type SharedField = Exclude<keyof LinkIdentity, "role" | "rank" | "incarnation">;

const WAYS_OUT: Readonly<Record<SharedField, string>> = {
  pool: "start every rank with the same --pool",
  group: "start every rank with the same --group, and check the stage addresses",
  stages: "start every rank with the same --stages",
  planDigest: "start every rank with the same --stages, --cuts and --place",
  modelDigest: "give every rank the same model folder",
  numericsClass: "start every rank with the same release, provider, run type and kind of device",
};

/** Everything that must be equal and is not; the text reads the same on both sides. */
export function identityViolations(own: LinkIdentity, peer: LinkIdentity): FieldViolation[] {
  return (Object.keys(WAYS_OUT) as SharedField[])
    .filter((field) => own[field] !== peer[field])
    .map((field) => {
      const here = `"${own[field]}" at ${rankText(own)}`;
      const there = `"${peer[field]}" at ${rankText(peer)}`;
      return { field, description: `is ${here} and ${there}; ${WAYS_OUT[field]}` };
    });
}

/** The peer is not one of those that may be at the other end. */
export function rankViolations(
  own: LinkIdentity,
  peer: LinkIdentity,
  expected: readonly ExpectedPeer[],
): FieldViolation[] {
  if (expected.some(({ role, rank }) => role === peer.role && rank === peer.rank)) return [];
  const wanted = expected.map(rankText).join(" or ");
  const found = `is ${rankText(peer)} where ${rankText(own)} expects ${wanted}`;
  const field = expected.some(({ role }) => role === peer.role) ? "rank" : "role";
  return [{ field, description: `${found}; check --rank and the stage addresses` }];
}

/** Who may dial the listener of this rank: the driver, and the stage before it. */
export function expectedDialers(own: LinkIdentity): ExpectedPeer[] {
  const driver: ExpectedPeer = { role: "driver", rank: 0 };
  return own.rank > 1 ? [driver, { role: "stage", rank: own.rank - 1 }] : [driver];
}

/** The highest version that both speak. */
export function commonProtocol(own: ProtocolRange, peer: ProtocolRange): number | FieldViolation {
  const version = Math.min(own.max, peer.max);
  if (version >= Math.max(own.min, peer.min)) return version;
  const versions = ({ min, max }: ProtocolRange): string =>
    min === max ? `${min}` : `${min} to ${max}`;
  const description =
    `is ${versions(own)} at one end and ${versions(peer)} at the other; ` +
    "bring both to releases that share a version";
  return { field: "protocol", description };
}

export function mismatchError(violations: readonly FieldViolation[]): AppError {
  const message = violations.map((v) => `${v.field} ${v.description}`).join("; ");
  return new AppError("failed_precondition", `the two ends of the stage link differ: ${message}`, {
    reason: "PEER_MISMATCH",
    violations,
  });
}

export function rankText(peer: ExpectedPeer): string {
  return peer.role === "driver" ? `the driver (rank ${peer.rank})` : `stage ${peer.rank}`;
}
