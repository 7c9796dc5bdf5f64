/**
 * The linter rules that keep this code base's promises (see `layers.mjs` for the first):
 *
 *   fluxline/import-direction  who may import whom
 *   fluxline/pure-core         kernel, core, onnx and models take time and randomness as arguments,
 *                              and never wait
 *   fluxline/process-env       the environment is read in main.ts only
 *
 * Test files beside the source are free of all three.
 */
import { relative, sep } from "node:path";
import { importRefusal, placeOf, PURE_LAYERS } from "./layers.mjs";

const pathOf = (context) => relative(context.cwd, context.filename).split(sep).join("/");

const importDirection = {
  create(context) {
    const path = pathOf(context);
    const check = (node) => {
      const specifier = node?.source?.value ?? node?.argument?.value;
      if (typeof specifier !== "string") return;
      const message = importRefusal(path, specifier);
      if (message !== undefined) context.report({ node, message });
    };
    return {
      ImportDeclaration: check,
      ExportNamedDeclaration: check,
      ExportAllDeclaration: check,
      ImportExpression: check,
      TSImportType: check,
    };
  },
};

const IMPURE_MEMBERS = {
  "Date.now": "take `nowMs` as an argument",
  "performance.now": "take `nowMs` as an argument",
  "Math.random": "take a `Random` of the kernel as an argument",
  "crypto.randomUUID": "take a `Random` of the kernel as an argument",
  "crypto.getRandomValues": "take a `Random` of the kernel as an argument",
};

const IMPURE_NAMES = {
  setTimeout: "return an effect with a due time and let an adapter keep the timer",
  setInterval: "return an effect with a due time and let an adapter keep the timer",
  setImmediate: "a core is called, it never calls itself later",
  queueMicrotask: "a core is called, it never calls itself later",
  fetch: "do input and output in an adapter",
  Promise: "decisions are synchronous; wait in an adapter",
  process: "take what you need as an argument",
  console: "return it, or let an adapter log it",
  randomUUID: "take a `Random` of the kernel as an argument",
  randomBytes: "take a `Random` of the kernel as an argument",
  randomInt: "take a `Random` of the kernel as an argument",
};

/** True where the identifier is a name of its own, not `x.name`, `{ name: ... }` or a type. */
function isReference(node) {
  const parent = node.parent;
  if (parent === undefined || parent === null) return true;
  if (parent.type === "MemberExpression") return parent.object === node || parent.computed;
  if (parent.type === "Property" || parent.type === "PropertyDefinition") {
    return parent.value === node;
  }
  return !["MethodDefinition", "TSPropertySignature", "TSMethodSignature"].includes(parent.type);
}

const pureCore = {
  create(context) {
    const place = placeOf(pathOf(context));
    if (place === undefined || !PURE_LAYERS.includes(place.layer)) return {};
    const refuse = (node, what, wayOut) =>
      context.report({ node, message: `${place.layer} code is pure; it uses ${what}: ${wayOut}.` });
    const refuseAsync = (node) => {
      if (node.async) refuse(node, "an async function", "decisions are synchronous");
    };
    return {
      MemberExpression(node) {
        if (node.computed || node.object.type !== "Identifier") return;
        const name = `${node.object.name}.${node.property.name}`;
        if (Object.hasOwn(IMPURE_MEMBERS, name)) refuse(node, name, IMPURE_MEMBERS[name]);
      },
      Identifier(node) {
        if (Object.hasOwn(IMPURE_NAMES, node.name) && isReference(node)) {
          refuse(node, node.name, IMPURE_NAMES[node.name]);
        }
      },
      NewExpression(node) {
        if (node.callee.name === "Date" && node.arguments.length === 0) {
          refuse(node, "new Date()", "take `nowMs` as an argument");
        }
      },
      AwaitExpression: (node) => refuse(node, "await", "decisions are synchronous"),
      ForOfStatement(node) {
        if (node.await) refuse(node, "for await", "decisions are synchronous");
      },
      ArrowFunctionExpression: refuseAsync,
      FunctionDeclaration: refuseAsync,
      FunctionExpression: refuseAsync,
    };
  },
};

const processEnv = {
  create(context) {
    const path = pathOf(context);
    if (placeOf(path) === undefined || path.endsWith("/src/main.ts")) return {};
    return {
      MemberExpression(node) {
        if (node.object.name !== "process" || node.property.name !== "env") return;
        const message = "the environment is read in main.ts only: pass the value in.";
        context.report({ node, message });
      },
    };
  },
};

export default {
  meta: { name: "fluxline" },
  rules: {
    "import-direction": importDirection,
    "pure-core": pureCore,
    "process-env": processEnv,
  },
};
