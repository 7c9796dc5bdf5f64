/**
 * Everything that waits for one kind of work, kept so that the first of all, and the first of one
 * group (a shape), are found without looking at the others.
 *
 *   leads:  tenants by tag   ->  each tenant's lines by their first turn
 *   groups: one per shape    ->  lines of the shape by their tenant's tag
 *   line:   one tenant's turns in one group, by moment
 *
 * A turn stands in one heap, a line in two. Tags only grow, so a heap that orders by them may lag
 * behind: what comes to its front is put where it belongs, and the next one is looked at.
 */
import { KeyedHeap, NO_PLACE } from "./keyed-heap.ts";
import type { TenantAccount, TenantClock } from "./tenant-clock.ts";
import { hasLapsed, isSooner, type Turn } from "./turn.ts";

interface Tagged {
  readonly account: TenantAccount;
  /** As it was when it was last looked at. */
  tag: number;
  tagPlace: number;
}

type TagHeap<E extends Tagged> = KeyedHeap<"tagPlace", E>;
type TurnHeap<T extends Turn> = KeyedHeap<"place", T>;
type LineHeap<T extends Turn> = KeyedHeap<"turnPlace", Line<T>>;

interface Line<T extends Turn> extends Tagged {
  readonly group: Group<T>;
  readonly turns: TurnHeap<T>;
  turnPlace: number;
}

interface Group<T extends Turn> {
  readonly key: string;
  readonly lines: Map<TenantAccount, Line<T>>;
  readonly byTag: TagHeap<Line<T>>;
  size: number;
}

interface Lead<T extends Turn> extends Tagged {
  readonly lines: LineHeap<T>;
}

export class TurnIndex<T extends Turn> {
  readonly #clock: TenantClock;
  readonly #groups = new Map<string, Group<T>>();
  readonly #leads = new Map<TenantAccount, Lead<T>>();
  readonly #leadsByTag = new KeyedHeap<"tagPlace", Lead<T>>("tagPlace", isBefore);
  #size = 0;

  constructor(clock: TenantClock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#size;
  }

  /** Turns that wait in one group. */
  sizeOf(group: string): number {
    return this.#groups.get(group)?.size ?? 0;
  }

  add(turn: T, groupKey: string): void {
    const group = this.#group(groupKey);
    const line = group.lines.get(turn.account) ?? this.#openLine(group, turn);
    if (!line.turns.has(turn)) {
      line.turns.add(turn);
      this.#lead(line).lines.moved(line);
    }
    group.size += 1;
    this.#size += 1;
  }

  delete(turn: T, groupKey: string): void {
    const group = this.#group(groupKey);
    const line = group.lines.get(turn.account)!;
    group.size -= 1;
    this.#size -= 1;
    if (line.turns.size === 1) this.#closeLine(line);
    line.turns.delete(turn);
    if (line.turns.size > 0) this.#lead(line).lines.moved(line);
  }

  /** Whose turn it is of all. */
  first(nowMs: number): T | undefined {
    const lead = this.#front(this.#leadsByTag);
    if (lead === undefined) return undefined;
    for (;;) {
      const turn = lead.lines.first!.turns.first!;
      if (!this.#lapse(lead.lines.first!, turn, nowMs)) return turn;
    }
  }

  /** Whose turn it is in a group. */
  firstOf(groupKey: string, nowMs: number): T | undefined {
    const group = this.#groups.get(groupKey);
    const line = group && this.#front(group.byTag);
    if (line === undefined) return undefined;
    for (;;) {
      const turn = line.turns.first!;
      if (!this.#lapse(line, turn, nowMs)) return turn;
    }
  }

  /** The first whose tag is up to date. Each round brings one up to date, and they only grow. */
  #front<E extends Tagged>(heap: TagHeap<E>): E | undefined {
    for (;;) {
      const { first } = heap;
      if (first === undefined) return undefined;
      const tag = this.#clock.tag(first.account);
      if (tag === first.tag) return first;
      first.tag = tag;
      heap.moved(first);
    }
  }

  /** Moves a turn back whose deadline can no longer be met; true if it did. */
  #lapse(line: Line<T>, turn: T, nowMs: number): boolean {
    if (!hasLapsed(turn, nowMs)) return false;
    turn.momentMs = turn.lateMs;
    line.turns.moved(turn);
    this.#lead(line).lines.moved(line);
    return true;
  }

  #group(key: string): Group<T> {
    const known = this.#groups.get(key);
    if (known !== undefined) return known;
    const byTag = new KeyedHeap<"tagPlace", Line<T>>("tagPlace", isBefore);
    const group: Group<T> = { key, lines: new Map(), byTag, size: 0 };
    this.#groups.set(key, group);
    return group;
  }

  #openLine(group: Group<T>, turn: T): Line<T> {
    const { account } = turn;
    const tag = this.#clock.tag(account);
    const turns = new KeyedHeap<"place", T>("place", isSooner);
    const places = { tagPlace: NO_PLACE, turnPlace: NO_PLACE };
    const line: Line<T> = { account, tag, group, turns, ...places };
    line.turns.add(turn);
    group.lines.set(account, line);
    group.byTag.add(line);
    let lead = this.#leads.get(account);
    if (lead === undefined) {
      const lines = new KeyedHeap<"turnPlace", Line<T>>("turnPlace", hasSoonerTurn);
      lead = { account, tag, lines, tagPlace: NO_PLACE };
      this.#leads.set(account, lead);
      this.#leadsByTag.add(lead);
    }
    lead.lines.add(line);
    return line;
  }

  #closeLine(line: Line<T>): void {
    const { group, account } = line;
    group.lines.delete(account);
    group.byTag.delete(line);
    if (group.lines.size === 0) this.#groups.delete(group.key);
    const lead = this.#lead(line);
    lead.lines.delete(line);
    if (lead.lines.size > 0) return;
    this.#leads.delete(account);
    this.#leadsByTag.delete(lead);
  }

  #lead({ account }: Line<T>): Lead<T> {
    return this.#leads.get(account)!;
  }
}

function isBefore(a: Tagged, b: Tagged): boolean {
  return a.tag !== b.tag ? a.tag < b.tag : a.account.sequence < b.account.sequence;
}

function hasSoonerTurn<T extends Turn>(a: Line<T>, b: Line<T>): boolean {
  return isSooner(a.turns.first!, b.turns.first!);
}
