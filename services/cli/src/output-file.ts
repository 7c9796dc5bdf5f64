/**
 * Where pictures are written. A file that is there already is never replaced unasked: a name of the
 * user's choice is refused before any work is done, a name of ours gets a number.
 *
 *   one image   NAME.png               several   NAME-0.png, NAME-1.png, ...
 */
import { accessSync, constants, existsSync, linkSync, renameSync, rmSync } from "node:fs";
import { writeFileSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import { AppError, invalidArgument } from "@fluxline/kernel/error.ts";

export const imageFormats = ["png", "jpeg", "webp"] as const;
export type ImageFormat = (typeof imageFormats)[number];

export interface OutputPlan {
  /** The user's choice; undefined means a name from the seed, in the current folder. */
  readonly file: string | undefined;
  readonly overwrite: boolean;
  readonly format: ImageFormat;
  readonly count: number;
}

const extensions: Readonly<Record<string, ImageFormat>> = {
  ".png": "png",
  ".jpg": "jpeg",
  ".jpeg": "jpeg",
  ".webp": "webp",
};
const namesMax = 10_000;

/** The format that was asked for, or the one that the file's name says; never two at once. */
export function chooseFormat(
  asked: ImageFormat | undefined,
  file: string | undefined,
): ImageFormat {
  const ending = file === undefined ? "" : extname(file).toLowerCase();
  const named = extensions[ending];
  if (file === "-" || (ending !== "" && named === undefined)) {
    const rule = "name a file that ends in .png, .jpg, .jpeg or .webp";
    throw invalidArgument([{ field: "--output", description: `is ${file}; ${rule}` }]);
  }
  if (asked === undefined || named === undefined || asked === named) return asked ?? named ?? "png";
  const description =
    `is ${asked}, but --output ${file} has the ending of a ${named} file; ` +
    "leave --format out, or change the ending";
  throw invalidArgument([{ field: "--format", description }], "FORMAT_MISMATCH");
}

/** Refuses before any work is done what would fail when it is done. */
export function checkOutput({ file, overwrite, count }: OutputPlan): void {
  checkFolder("--output", file === undefined ? "." : dirname(file));
  if (file === undefined || overwrite) return;
  for (let index = 0; index < count; index++) {
    const name = numbered(file, index, count);
    if (existsSync(name)) throw existsError(name);
  }
}

/** Refuses a folder that cannot be written into; `field` is the option that named it. */
export function checkFolder(field: string, folder: string): void {
  try {
    accessSync(folder, constants.W_OK);
  } catch (cause) {
    const exists = existsSync(folder);
    const description = exists
      ? `cannot write into ${folder}; name a folder of yours`
      : `the folder ${folder} does not exist; make it, or name another one`;
    const { message, violations } = invalidArgument([{ field, description }]);
    const options = { reason: "OUTPUT_UNUSABLE", violations, cause };
    throw new AppError("failed_precondition", message, options);
  }
}

function existsError(name: string): AppError {
  const description = `${name} exists; name another file, or add --overwrite to replace it`;
  const { message, violations } = invalidArgument([{ field: "--output", description }]);
  return new AppError("already_exists", message, { reason: "OUTPUT_EXISTS", violations });
}

/** Writes one picture whole or not at all, and returns the name it got. */
export function writeImage(
  plan: OutputPlan,
  index: number,
  seed: bigint,
  bytes: Uint8Array,
): string {
  const name = pictureName(plan, index, seed);
  return writeNamed(name, { overwrite: plan.overwrite, copies: plan.file === undefined }, bytes);
}

/** The name that a picture gets if no other file has it. */
export function pictureName(plan: OutputPlan, index: number, seed: bigint): string {
  const { file, format, count } = plan;
  const wanted = file ?? `fluxline-${seed}.${format === "jpeg" ? "jpg" : format}`;
  return numbered(wanted, index, count);
}

export interface NameRule {
  readonly overwrite: boolean;
  /** Whether a name that is taken gets a number instead of being refused. */
  readonly copies: boolean;
}

/** Writes a file whole or not at all, and returns the name it got. */
export function writeNamed(
  wanted: string,
  { overwrite, copies }: NameRule,
  bytes: Uint8Array,
): string {
  const part = join(dirname(wanted), `.${basename(wanted)}.${process.pid}.part`);
  try {
    writeFileSync(part, bytes);
    if (overwrite) {
      renameSync(part, wanted);
      return wanted;
    }
    for (let copy = 1; copy <= namesMax; copy++) {
      const name = copyName(wanted, copy);
      if (linkNew(part, name)) return name;
      if (!copies) throw existsError(name);
    }
    throw existsError(wanted);
  } catch (thrown) {
    throw writeError(wanted, thrown);
  } finally {
    rmSync(part, { force: true });
  }
}

/** False when the name is taken. */
function linkNew(part: string, name: string): boolean {
  try {
    linkSync(part, name);
    return true;
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw thrown;
  }
}

function writeError(file: string, thrown: unknown): unknown {
  const { code } = thrown as NodeJS.ErrnoException;
  if (thrown instanceof AppError || code === undefined) return thrown;
  const why = code === "ENOSPC" ? "the disk is full; make room or name another place" : code;
  const text = `--output: ${file} could not be written: ${why}`;
  const reason = code === "ENOSPC" ? "DISK_FULL" : "OUTPUT_UNUSABLE";
  return new AppError("failed_precondition", text, { reason, cause: thrown });
}

function numbered(file: string, index: number, count: number): string {
  if (count === 1) return file;
  const ending = extname(file);
  return `${file.slice(0, file.length - ending.length)}-${index}${ending}`;
}

/** `name.png`, then `name.2.png`, `name.3.png`, ... */
function copyName(file: string, copy: number): string {
  if (copy === 1) return file;
  const ending = extname(file);
  return `${file.slice(0, file.length - ending.length)}.${copy}${ending}`;
}
