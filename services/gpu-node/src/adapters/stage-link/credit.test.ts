import { describe, expect, test } from "vitest";
import { Random } from "@fluxline/kernel/random.ts";
import { ReceiveCredit, SendCredit } from "./credit.ts";

const window = { frames: 2, bytes: 100 };

describe("credit", () => {
  test("is taken by frame and by byte, whichever is used up first", () => {
    const byFrame = new SendCredit(window);
    expect([byFrame.take(1), byFrame.take(1), byFrame.take(1)]).toEqual([true, true, false]);
    const byByte = new SendCredit(window);
    expect([byByte.take(60), byByte.take(60), byByte.take(40)]).toEqual([true, false, true]);
  });

  test("cannot come back more often than it was taken", () => {
    const credit = new SendCredit(window);
    credit.take(10);
    expect(() => credit.giveBack({ frames: 1, bytes: 11 })).toThrow(
      expect.objectContaining({ reason: "PROTOCOL_VIOLATION" }),
    );
  });

  test("counts against the sender until it is paid, not only until it is settled", () => {
    const credit = new ReceiveCredit(window);
    credit.hold(60);
    credit.release(60);
    expect(() => credit.hold(60)).toThrow(expect.objectContaining({ reason: "CREDIT_EXCEEDED" }));
    expect(credit.pay()).toEqual({ frames: 1, bytes: 60 });
    expect(credit.pay()).toBeUndefined();
    credit.hold(60);
  });

  test("kept by a sender is never exceeded at the receiver, and all comes back", () => {
    const seed = Number(process.env["FLUXLINE_SEED"] ?? Date.now() % 2 ** 31);
    console.log(`FLUXLINE_SEED=${seed} replays this test`);
    const random = new Random(seed);
    const sender = new SendCredit(window);
    const receiver = new ReceiveCredit(window);
    const held: number[] = [];
    for (let round = 0; round < 5000; round++) {
      const bytes = random.below(101);
      if (random.below(2) === 0 && sender.take(bytes)) {
        receiver.hold(bytes);
        held.push(bytes);
      } else if (held.length > 0) {
        receiver.release(held.splice(random.below(held.length), 1)[0]!);
      }
      const paid = random.below(3) === 0 ? receiver.pay() : undefined;
      if (paid !== undefined) sender.giveBack(paid);
    }
    for (const bytes of held) receiver.release(bytes);
    const rest = receiver.pay();
    if (rest !== undefined) sender.giveBack(rest);
    expect([sender.take(50), sender.take(50)]).toEqual([true, true]);
  });
});
