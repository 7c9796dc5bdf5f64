/** Certificates for tests of TLS: an authority, and what it has signed, as PEM files. */
import "reflect-metadata";
import type { webcrypto } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  BasicConstraintsExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  type X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import type { LinkSecurity } from "@fluxline/gpu-node/adapters/stage-link/link-security.ts";

const DAY_MS = 24 * 60 * 60 * 1000;
const keyAlgorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const signingAlgorithm = { name: "ECDSA", hash: "SHA-256" };

export interface CertificateFacts {
  readonly name: string;
  /** Days from now; negative: the certificate has expired. */
  readonly validDays?: number;
}

export class TestAuthority {
  readonly #folder: string;
  readonly #name: string;
  readonly #keys: webcrypto.CryptoKeyPair;
  readonly #certificate: X509Certificate;
  #serial = 1;

  private constructor(
    folder: string,
    name: string,
    keys: webcrypto.CryptoKeyPair,
    certificate: X509Certificate,
  ) {
    this.#folder = folder;
    this.#name = name;
    this.#keys = keys;
    this.#certificate = certificate;
  }

  static async create(folder: string, name: string): Promise<TestAuthority> {
    const keys = await newKeys();
    const certificate = await X509CertificateGenerator.createSelfSigned({
      serialNumber: "01",
      name: `CN=${name}`,
      notBefore: new Date(Date.now() - 10 * DAY_MS),
      notAfter: new Date(Date.now() + 10 * DAY_MS),
      keys,
      signingAlgorithm,
      extensions: [
        new BasicConstraintsExtension(true, undefined, true),
        new KeyUsagesExtension(KeyUsageFlags.keyCertSign, true),
      ],
    });
    return new TestAuthority(folder, name, keys, certificate);
  }

  /** Writes a certificate, its key and the authority; the same `file` again replaces them. */
  async issue(file: string, { name, validDays = 1 }: CertificateFacts): Promise<LinkSecurity> {
    const keys = await newKeys();
    this.#serial += 1;
    const certificate = await X509CertificateGenerator.create({
      serialNumber: this.#serial.toString(16).padStart(2, "0"),
      subject: `CN=${file}`,
      issuer: this.#certificate.subject,
      notBefore: new Date(Date.now() - 5 * DAY_MS),
      notAfter: new Date(Date.now() + validDays * DAY_MS),
      publicKey: keys.publicKey,
      signingKey: this.#keys.privateKey,
      signingAlgorithm,
      extensions: [new SubjectAlternativeNameExtension([{ type: "dns", value: name }])],
    });
    const key = await crypto.subtle.exportKey("pkcs8", keys.privateKey);
    return {
      certificateFile: this.#write(`${file}.crt`, certificate.toString("pem")),
      keyFile: this.#write(`${file}.key`, PemConverter.encode(key, "PRIVATE KEY")),
      authorityFile: this.#write(`${this.#name}.crt`, this.#certificate.toString("pem")),
    };
  }

  #write(name: string, text: string): string {
    const path = join(this.#folder, name);
    writeFileSync(path, text);
    return path;
  }
}

async function newKeys(): Promise<webcrypto.CryptoKeyPair> {
  return crypto.subtle.generateKey(keyAlgorithm, true, ["sign", "verify"]);
}
