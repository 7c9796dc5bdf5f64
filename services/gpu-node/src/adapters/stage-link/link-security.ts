/**
 * Mutual TLS on the stage link. Both ends show a certificate of the configured authority that
 * carries a name which the other end expects. Whether a peer is trusted is decided here, after the
 * TLS handshake and before a frame is read, so that an end that refuses can say why in a frame.
 *
 * The files are read for each connection: certificates that were renewed count from the next one.
 */
import { readFile } from "node:fs/promises";
import type { Socket } from "node:net";
import {
  checkServerIdentity,
  connect,
  createSecureContext,
  createServer,
  type SecureContext,
  type TLSSocket,
} from "node:tls";
import { AppError } from "@fluxline/kernel/error.ts";

const TLS_VERSION_MIN = "TLSv1.3";

/** PEM files, and the names of which a peer's certificate must carry one as a subjectAltName. */
export interface LinkSecurity {
  readonly certificateFile: string;
  readonly keyFile: string;
  readonly authorityFile: string;
  readonly peerNames: readonly string[];
}

export interface SecuredSocket {
  readonly socket: TLSSocket;
  /** Why the peer is not trusted; nothing it sends may be read then. */
  readonly refusal: AppError | undefined;
}

/** Dialer's side, over a connected socket. Throws TLS_FILES or TLS_FAILED. */
export async function secureDialed(raw: Socket, security: LinkSecurity): Promise<SecuredSocket> {
  const secureContext = await readContext(security);
  const [servername] = security.peerNames;
  const socket = connect({
    socket: raw,
    secureContext,
    minVersion: TLS_VERSION_MIN,
    ...(servername === undefined ? {} : { servername }),
    // Judged below, so that the reason can be told.
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
  });
  const { promise, resolve, reject } = Promise.withResolvers<SecuredSocket>();
  socket.once("secureConnect", () => {
    socket.off("error", reject);
    resolve({ socket, refusal: refusalOf(socket, security.peerNames) });
  });
  socket.once("error", reject);
  socket.once("close", () => reject(new Error("the connection ended in the TLS handshake")));
  return promise.catch((cause: unknown) => {
    raw.destroy();
    throw tlsError(cause);
  });
}

/** Listener's side, over an accepted socket. Throws TLS_FILES or TLS_FAILED. */
export async function secureAccepted(raw: Socket, security: LinkSecurity): Promise<SecuredSocket> {
  const { promise, resolve, reject } = Promise.withResolvers<SecuredSocket>();
  raw.once("close", () => reject(new Error("the connection ended in the TLS handshake")));
  const secureContext = await readContext(security);
  // A server of its own for this connection: it takes the socket from us and listens nowhere.
  const server = createServer({
    secureContext,
    minVersion: TLS_VERSION_MIN,
    requestCert: true,
    rejectUnauthorized: false,
  } as Parameters<typeof createServer>[0]);
  server.once("secureConnection", (socket) => {
    resolve({ socket, refusal: refusalOf(socket, security.peerNames) });
  });
  server.once("tlsClientError", reject);
  server.emit("connection", raw);
  return promise.catch((cause: unknown) => {
    raw.destroy();
    throw tlsError(cause);
  });
}

async function readContext(security: LinkSecurity): Promise<SecureContext> {
  const { certificateFile, keyFile, authorityFile } = security;
  try {
    const [cert, key, ca] = await Promise.all(
      [certificateFile, keyFile, authorityFile].map((file) => readFile(file)),
    );
    return createSecureContext({ cert: cert!, key: key!, ca: ca!, minVersion: TLS_VERSION_MIN });
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
