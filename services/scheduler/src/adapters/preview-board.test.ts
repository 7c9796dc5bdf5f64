import { Preview } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { describe, expect, test } from "vitest";
import { PreviewBoard } from "./preview-board.ts";

const preview = (index: number, step: number, bytes = 10): Preview =>
  Preview.fromPartial({ index, step, content: Buffer.alloc(bytes) });
const steps = (board: PreviewBoard, key: string): [number, number][] =>
  board.newest(key).map(({ index, step }) => [index, step]);

describe("the preview board", () => {
  test("keeps the newest preview of each image of a job, in order of the images", () => {
    const board = new PreviewBoard();
    for (const each of [preview(1, 3), preview(0, 2), preview(0, 4)]) board.put("a", each);
    board.put("b", preview(0, 9));
    expect(steps(board, "a")).toEqual([
      [0, 4],
      [1, 3],
    ]);
    board.forget("a");
    expect(steps(board, "a")).toEqual([]);
    expect(steps(board, "b")).toEqual([[0, 9]]);
  });

  test("lets the job go that has been without a new one for longest when there are too many", () => {
    const board = new PreviewBoard(30);
    for (const key of ["a", "b", "c"]) board.put(key, preview(0, 1));
    board.put("a", preview(0, 2));
    board.put("d", preview(0, 1));
    expect(["a", "b", "c", "d"].filter((key) => board.newest(key).length > 0)).toEqual([
      "a",
      "c",
      "d",
    ]);
    board.put("e", preview(0, 1, 31));
    expect(["a", "c", "d", "e"].flatMap((key) => board.newest(key))).toEqual([]);
    for (const key of ["a", "b", "c"]) board.put(key, preview(0, 1));
    expect(["a", "b", "c"].flatMap((key) => board.newest(key))).toHaveLength(3);
  });

  test("tells followers of the job, and of no other, until they leave", () => {
    const board = new PreviewBoard();
    const heard: number[] = [];
    const leave = board.follow("a", ({ step }) => heard.push(step));
    board.put("a", preview(0, 1));
    board.put("b", preview(0, 2));
    leave();
    board.put("a", preview(0, 3));
    expect(heard).toEqual([1]);
  });
});
