/**
 * Share between tenants: start-time fair queueing over what their rows cost alone (P. Goyal, H. Vin,
 * H. Cheng, "Start-time Fair Queueing", SIGCOMM 1996).
 *
 * Each tenant has a tag in charged seconds per share; the lowest leads the next batch. A row that
 * runs moves its tenant's tag by cost / share. Virtual time is the tag of whoever led last, and a
 * tenant that becomes active starts there at the earliest: who was away has saved nothing up.
 *
 * Rows also ride along in batches that others lead. That is spare room, so it is charged only as
 * far as `LEAD_ROWS` of the tenant's own rows beyond virtual time: a rider never has to pay later
 * for places that nobody else could fill, and no tenant's next turn is further away than that.
 *
 * Invariant: tags and virtual time only grow.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { KeyedHeap, NO_PLACE } from "./keyed-heap.ts";

/** Tenants that left with a debt and are remembered until virtual time has passed it. */
const DEBTORS_MAX = 1024;

export interface TenantAccount {
  readonly tenant: string;
  /** Order of first appearance; decides between equal tags. */
  readonly sequence: number;
}

interface Account extends TenantAccount {
  tag: number;
  /** Jobs that are here. */
  residents: number;
  /** Rows that wait for a step or are in one. */
  rows: number;
  debtorPlace: number;
}

export class TenantClock {
  readonly #leadRows: number;
  readonly #accounts = new Map<string, Account>();
  readonly #debtors = new KeyedHeap<"debtorPlace", Account>("debtorPlace", (a, b) => a.tag < b.tag);
  #virtual = 0;
  #tagMax = 0;
  #activeRows = 0;
  #nextSequence = 0;

  /** `leadRows`: how many of its own rows a tenant may be ahead of virtual time. */
  constructor(leadRows: number) {
    assert(leadRows >= 1, `a lead of ${leadRows} rows`);
    this.#leadRows = leadRows;
  }

  /** A job of the tenant arrives. */
  enter(tenant: string): TenantAccount {
    const account = this.#accounts.get(tenant) ?? {
      tenant,
      sequence: this.#nextSequence++,
      tag: this.#virtual,
      residents: 0,
      rows: 0,
      debtorPlace: NO_PLACE,
    };
    this.#accounts.set(tenant, account);
    account.residents += 1;
    if (this.#debtors.has(account)) this.#debtors.delete(account);
    return account;
  }

  /** A job of the tenant has gone. */
  leave(account: TenantAccount): void {
    const own = this.#own(account);
    own.residents -= 1;
    assert(own.residents >= 0, `${own.tenant} has fewer than no jobs here`);
    if (own.residents > 0) return;
    assert(own.rows === 0, `${own.tenant} leaves with rows`);
    this.#debtors.add(own);
    this.#forget();
  }

  /** A row of the tenant waits for its next step. */
  rowBegins(account: TenantAccount): void {
    const own = this.#own(account);
    if (own.rows === 0) own.tag = Math.max(own.tag, this.#virtual);
    own.rows += 1;
    this.#activeRows += 1;
  }

  /** The row needs no further step, or is gone. When nobody has one, all debts are forgiven. */
  rowEnds(account: TenantAccount): void {
    const own = this.#own(account);
    own.rows -= 1;
    this.#activeRows -= 1;
    assert(own.rows >= 0, `${own.tenant} has fewer than no rows`);
    if (this.#activeRows === 0) this.#pass(this.#tagMax);
  }

  /** The lower, the sooner; of a tenant without rows, what it would start with. */
  tag(account: TenantAccount): number {
    const own = this.#own(account);
    return own.rows > 0 ? own.tag : Math.max(own.tag, this.#virtual);
  }

  /** The tenant's turn has come. */
  leads(account: TenantAccount): void {
    this.#pass(this.#own(account).tag);
  }

  /** A row of the tenant runs. */
  charge(account: TenantAccount, seconds: number, share: number): void {
    assert(share > 0 && seconds >= 0, `${seconds} s charged at share ${share}`);
    const own = this.#own(account);
    const cost = seconds / share;
    const furthest = this.#virtual + this.#leadRows * cost;
    own.tag = Math.max(own.tag, Math.min(own.tag + cost, furthest));
    this.#tagMax = Math.max(this.#tagMax, own.tag);
  }

  #pass(tag: number): void {
    this.#virtual = Math.max(this.#virtual, tag);
    this.#forget();
  }

  #forget(): void {
    for (;;) {
      const lowest = this.#debtors.first;
      if (lowest === undefined) return;
      if (lowest.tag > this.#virtual && this.#debtors.size <= DEBTORS_MAX) return;
      this.#debtors.delete(lowest);
      this.#accounts.delete(lowest.tenant);
    }
  }

  #own(account: TenantAccount): Account {
    return account as Account;
  }
}
