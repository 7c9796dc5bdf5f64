/**
 * Mutual TLS on the stage link. Both ends show a certificate of the configured authority that
 * carries a name which the other end expects. Whether a peer is trusted is decided here, after the
 * TLS handshake and before a frame is read, so that an end that refuses can say why in a frame.
 *
 * The files are read for each connection: certificates that were renewed count from the next one.
 */
import { readFile } from "node:fs/promises";
import { isIP, type Socket } from "node:net";
import {
  checkServerIdentity,
  connect,
  createSecureContext,
  createServer,
  type TLSSocket,
} from "node:tls";
import { AppError } from "@fluxline/kernel/error.ts";

const TLS_VERSION_MIN = "TLSv1.3";

/** PEM files, and whose certificate is taken. */
export interface LinkSecurity {
  readonly certificateFile: string;
  readonly keyFile: string;
  readonly authorityFile: string;
  /** A peer's certificate must carry one of them as a subjectAltName; the group's name if absent. */
  readonly peerNames?: readonly string[];
}

/** PEM, as `node:tls` takes it. */
interface Credentials {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca: Buffer;
  readonly minVersion: typeof TLS_VERSION_MIN;
}

export interface SecuredSocket {
  readonly socket: TLSSocket;
  /** Why the peer is not trusted; nothing it sends may be read then. */
  readonly refusal: AppError | undefined;
}

/**
 * Dialer's side, over a connected socket. `group` is the name that is expected if no other is
 * configured. Throws TLS_FILES or TLS_FAILED; the socket is closed then.
 */
export async function secureDialed(
  raw: Socket,
  security: LinkSecurity,
  group: string,
): Promise<SecuredSocket> {
  const peerNames = security.peerNames ?? [group];
  return secured(raw, security, (credentials, { resolve, reject }) => {
    const servername = peerNames.find((name) => isIP(name) === 0);
    const socket = connect({
      ...credentials,
      ...(servername === undefined ? {} : { servername }),
      socket: raw,
      // Judged in refusalOf, so that the reason can be told.
      rejectUnauthorized: false,
      checkServerIdentity: () => undefined,
    });
    socket.once("error", reject);
    socket.once("secureConnect", () => {
      socket.off("error", reject);
      resolve({ socket, refusal: refusalOf(socket, peerNames) });
    });
  });
}

/** Listener's side, over an accepted socket; otherwise as `secureDialed`. */
export async function secureAccepted(
  raw: Socket,
  security: LinkSecurity,
  group: string,
): Promise<SecuredSocket> {
  const peerNames = security.peerNames ?? [group];
  return secured(raw, security, (credentials, { resolve, reject }) => {
    // A server for this connection alone: it is given the socket and listens nowhere.
    const server = createServer({ ...credentials, requestCert: true, rejectUnauthorized: false });
    server.once("tlsClientError", reject);
    server.once("secureConnection", (socket) => {
      resolve({ socket, refusal: refusalOf(socket, peerNames) });
    });
    server.emit("connection", raw);
  });
}

async function secured(
  raw: Socket,
  security: LinkSecurity,
  begin: (
    credentials: Credentials,
    outcome: Pick<PromiseWithResolvers<SecuredSocket>, "resolve" | "reject">,
  ) => void,
): Promise<SecuredSocket> {
  const { promise, resolve, reject } = Promise.withResolvers<SecuredSocket>();
  raw.once("close", () => reject(new Error("the connection ended in the TLS handshake")));
  try {
    // Both, because the socket may close while the files are read.
    await Promise.race([
      promise,
      readCredentials(security).then((credentials) => {
        if (!raw.destroyed) begin(credentials, { resolve, reject });
      }),
    ]);
    return await promise;
  } catch (thrown) {
    raw.destroy();
    throw tlsError(thrown);
  }
}

async function readCredentials(security: LinkSecurity): Promise<Credentials> {
  const { certificateFile, keyFile, authorityFile } = security;
  try {
    const [cert, key, ca] = await Promise.all([
      readFile(certificateFile),
      readFile(keyFile),
      readFile(authorityFile),
    ]);
    const credentials: Credentials = { cert, key, ca, minVersion: TLS_VERSION_MIN };
    createSecureContext(credentials);
    return credentials;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    const files = [certificateFile, keyFile, authorityFile].join(", ");
    const message = `the stage link's TLS files (${files}) cannot be used: ${why}`;
    throw new AppError("failed_precondition", message, { reason: "TLS_FILES", cause });
  }
}

function refusalOf(socket: TLSSocket, peerNames: readonly string[]): AppError | undefined {
  if (!socket.authorized) {
    const why = String(socket.authorizationError ?? "it showed none");
    return untrusted(`its certificate is not accepted: ${why}; check certificate and authority`);
  }
  const certificate = socket.getPeerCertificate();
  const names = certificate.subjectaltname ?? "none";
  const isExpected = peerNames.some(
    (name) =>
      certificate.subjectaltname !== undefined &&
      checkServerIdentity(name, certificate) === undefined,
  );
  if (isExpected) return undefined;
  const wanted = peerNames.join(" or ");
  return untrusted(
    `its certificate names ${names} and not ${wanted}; ` +
      "give it a subjectAltName of the group, or configure the name it has",
  );
}

function untrusted(why: string): AppError {
  return new AppError("unauthenticated", `this end of the stage link is not trusted: ${why}`, {
    reason: "PEER_NOT_TRUSTED",
  });
}

function tlsError(cause: unknown): AppError {
  if (cause instanceof AppError) return cause;
  const why = cause instanceof Error ? cause.message : String(cause);
  const message = `TLS on the stage link failed: ${why}; check that both ends use TLS`;
  return new AppError("unavailable", message, { reason: "TLS_FAILED", retryable: true, cause });
}
