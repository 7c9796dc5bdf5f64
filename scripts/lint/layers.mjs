/**
 * Which file may import which: the direction of imports, as one table.
 *
 *   kernel <- core, onnx, models <- adapters <- main        platform: adapters and main only
 *   generated proto code: adapters, platform, cli, loadtest, test        services: never each other
 *
 * Pure functions on paths, so that the table itself is what the test reads; `plugin.mjs` brings
 * them to the linter.
 */
import { posix } from "node:path";

/** Layers whose code is synchronous, without I/O, time or randomness of its own. */
export const PURE_LAYERS = ["kernel", "core", "onnx", "models"];

/** For each layer, the layers it may import; outside the kernel and platform, of its own service. */
const MAY_IMPORT = {
  kernel: ["kernel"],
  core: ["kernel", "core"],
  onnx: ["kernel", "core", "onnx"],
  models: ["kernel", "core", "onnx", "models"],
  platform: ["kernel", "platform", "proto"],
  adapters: ["kernel", "platform", "proto", "core", "onnx", "models", "adapters"],
  main: ["kernel", "platform", "core", "onnx", "models", "adapters", "main"],
  cli: ["kernel", "platform", "proto", "cli"],
  proto: ["proto"],
  loadtest: ["kernel", "platform", "proto", "loadtest"],
};

/** Layers that belong to everybody; all others are private to their service. */
const SHARED_LAYERS = ["kernel", "platform", "proto"];

/** What a pure layer may import from outside: nothing that waits, reads a file or a clock. */
const PURE_PACKAGES = ["node:buffer", "node:crypto", "node:util", "@huggingface/tokenizers", "zod"];

const PACKAGE_SCOPE = "@fluxline/";
const SOURCE_FOLDERS = {
  core: "core",
  onnx: "onnx",
  models: "models",
  adapters: "adapters",
  controllers: "adapters",
};

/**
 * Where a file belongs, from its path relative to the repository root with `/` between parts.
 * Undefined for files that no rule speaks of: tests, scripts, benchmarks.
 */
export function placeOf(path) {
  if (/\.test\.[cm]?[jt]s$/.test(path)) return undefined;
  const parts = path.split("/");
  if (parts[0] === "proto") return { layer: "proto", service: "proto" };
  if (parts[0] === "loadtest") return { layer: "loadtest", service: "loadtest" };
  const service = parts[0] === "services" ? parts[1] : parts[0];
  const inside = parts[0] === "services" ? parts.slice(2) : parts.slice(1);
  if (parts[0] !== "services" && parts[0] !== "operator") return undefined;
  if (inside[0] !== "src") return undefined;
  if (["kernel", "platform", "cli"].includes(service)) return { layer: service, service };
  return { layer: SOURCE_FOLDERS[inside[1]] ?? "main", service };
}

/** The repository path that an import means, or undefined for a package from outside. */
export function targetPath(path, specifier) {
  if (specifier.startsWith(".")) return posix.join(posix.dirname(path), specifier);
  if (!specifier.startsWith(PACKAGE_SCOPE)) return undefined;
  const [name = "", ...rest] = specifier.slice(PACKAGE_SCOPE.length).split("/");
  if (name === "proto") return posix.join("proto/gen", ...rest);
  const folder = name === "operator" ? "operator" : `services/${name}`;
  return posix.join(folder, "src", ...rest);
}

/** Why this import is refused, in a sentence with the way out; undefined if it is allowed. */
export function importRefusal(path, specifier) {
  const from = placeOf(path);
  if (from === undefined) return undefined;
  const target = targetPath(path, specifier);
  if (target === undefined) return packageRefusal(from, specifier);
  const to = placeOf(target);
  if (to === undefined) {
    return `${from.layer} code imports ${target}, which is no service code: move what is shared.`;
  }
  if (to.service !== from.service && !SHARED_LAYERS.includes(to.layer)) {
    return (
      `${from.service} imports ${to.service}: services never import each other. ` +
      "Talk over gRPC or NATS, or move what both need to services/kernel."
    );
  }
  if (MAY_IMPORT[from.layer].includes(to.layer)) return undefined;
  return (
    `${from.layer} code imports ${to.layer} code (${target}); it may import only ` +
    `${MAY_IMPORT[from.layer].join(", ")}. Turn the dependency round: let the core state ` +
    "what it needs as a small interface, and give it from an adapter."
  );
}

function packageRefusal(from, specifier) {
  if (!PURE_LAYERS.includes(from.layer)) return undefined;
  if (PURE_PACKAGES.some((name) => specifier === name || specifier.startsWith(`${name}/`))) {
    return undefined;
  }
  return (
    `${from.layer} code is pure and imports ${specifier}; allowed are ${PURE_PACKAGES.join(", ")}. ` +
    "Do the input and output in an adapter and pass the result in."
  );
}
