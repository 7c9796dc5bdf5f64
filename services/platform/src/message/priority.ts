/** Between the public `Priority` and the kernel's priority classes. */
import type { PriorityClass } from "@fluxline/kernel/priority-class.ts";
import { Priority } from "@fluxline/proto/fluxline/v1/image_job.ts";

const classes: Readonly<Record<number, PriorityClass>> = {
  [Priority.PRIORITY_UNSPECIFIED]: "standard",
  [Priority.PRIORITY_INTERACTIVE]: "interactive",
  [Priority.PRIORITY_STANDARD]: "standard",
  [Priority.PRIORITY_BATCH]: "batch",
};

const priorities: Readonly<Record<PriorityClass, Priority>> = {
  interactive: Priority.PRIORITY_INTERACTIVE,
  standard: Priority.PRIORITY_STANDARD,
  batch: Priority.PRIORITY_BATCH,
};

/** Undefined for a number that this version does not know. */
export function priorityClass(priority: Priority): PriorityClass | undefined {
  return classes[priority];
}

export function priorityOf(priority: PriorityClass): Priority {
  return priorities[priority];
}
