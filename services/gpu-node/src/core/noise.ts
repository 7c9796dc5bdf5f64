/**
 * Noise equal to torch's CPU generator bit for bit, so that a seed means the same picture here and
 * in diffusers: `torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))` in float32
 * as torch computes it on a CPU with AVX2 and FMA.
 *
 *   seed -> low 32 bits -> MT19937 -> 24-bit uniforms -> blocks of 16 -> Box-Muller
 *     block of 16: radius from 1 - u[j], angle from u[j + 8]; cosine goes to j, sine to j + 8
 *     a last block that is not full is drawn again, over the last 16 values
 *     fewer than 16 values take another road: 53-bit uniforms and double precision
 *
 * Source of the uniforms: Matsumoto and Nishimura, "Mersenne Twister" (1998). Source of logarithm,
 * sine and cosine: the single precision polynomials of Moshier's Cephes library, each
 * multiply-add rounded once, as the FMA instruction does.
 */
import { assert } from "@fluxline/kernel/assert.ts";

const STATE_WORDS = 624;
const MIDDLE_WORD = 397;
/** Values that torch draws together. */
export const NOISE_BLOCK = 16;
const HALF_BLOCK = 8;

const fround = Math.fround;

/** MT19937 and what torch keeps beside it. Draws continue where the last one ended. */
export class TorchGenerator {
  readonly #state = new Uint32Array(STATE_WORDS);
  #next = STATE_WORDS;
  /** The second half of a Box-Muller pair in double precision, kept for the next short draw. */
  #spareNormal: number | undefined;

  /** Of the seed (0 .. 2^64 - 1) only the low 32 bits count: 2^32 + 5 draws what 5 draws. */
  constructor(seed: bigint) {
    const state = this.#state;
    state[0] = Number(BigInt.asUintN(32, seed));
    for (let i = 1; i < STATE_WORDS; i++) {
      const previous = state[i - 1]!;
      state[i] = Math.imul(1812433253, previous ^ (previous >>> 30)) + i;
    }
  }

  /** `count` normal values, as `torch.randn` fills a contiguous tensor of that many elements. */
  normal(count: number): Float32Array {
    assert(Number.isInteger(count) && count >= 0, `a draw of ${count} values`);
    const values = new Float32Array(count);
    if (count < NOISE_BLOCK) {
      for (let i = 0; i < count; i++) values[i] = this.#normalDouble();
      return values;
    }
    for (let i = 0; i < count; i++) values[i] = this.#uniform24();
    for (let start = 0; start + NOISE_BLOCK <= count; start += NOISE_BLOCK) toNormal(values, start);
    if (count % NOISE_BLOCK !== 0) {
      const start = count - NOISE_BLOCK;
      for (let i = start; i < count; i++) values[i] = this.#uniform24();
      toNormal(values, start);
    }
    return values;
  }

  /** In [0, 1), a multiple of 2^-24. */
  #uniform24(): number {
    return (this.#uint32() & 0xffffff) * 2 ** -24;
  }

  /** In [0, 1), a multiple of 2^-53: the low 21 bits of one word above all 32 of the next. */
  #uniform53(): number {
    const high = this.#uint32() & 0x1fffff;
    return (high * 2 ** 32 + this.#uint32()) * 2 ** -53;
  }

  #normalDouble(): number {
    const spare = this.#spareNormal;
    if (spare !== undefined) {
      this.#spareNormal = undefined;
      return spare;
    }
    const angle = 2 * Math.PI * this.#uniform53();
    const radius = Math.sqrt(-2 * Math.log1p(-this.#uniform53()));
    this.#spareNormal = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  #uint32(): number {
    if (this.#next === STATE_WORDS) this.#twist();
    let word = this.#state[this.#next++]!;
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  }

  #twist(): void {
    const state = this.#state;
    for (let i = 0; i < STATE_WORDS; i++) {
      const word = (state[i]! & 0x80000000) | (state[(i + 1) % STATE_WORDS]! & 0x7fffffff);
      const mixed = state[(i + MIDDLE_WORD) % STATE_WORDS]! ^ (word >>> 1);
      state[i] = (word & 1) === 0 ? mixed : mixed ^ 0x9908b0df;
    }
    this.#next = 0;
  }
}

const TWO_PI = fround(2 * Math.PI);

/** Turns the 16 uniforms at `start` into normals, in place. */
function toNormal(values: Float32Array, start: number): void {
  for (let j = start; j < start + HALF_BLOCK; j++) {
    const radius = fround(Math.sqrt(fround(-2 * logarithm(fround(1 - values[j]!)))));
    const angle = fround(TWO_PI * values[j + HALF_BLOCK]!);
    // Adding zero turns a negative zero into a positive one, as the last multiply-add does.
    values[j] = fround(radius * cosine(angle)) + 0;
    values[j + HALF_BLOCK] = fround(radius * sine(angle)) + 0;
  }
}

/**
 * a * b + c of three float32 values, rounded once to float32. The product is exact in double
 * precision, the sum is rounded to it; rounding that once more is right except where the sum has
 * landed half-way between two float32 values, where what it lost decides.
 */
export function fusedMultiplyAdd(a: number, b: number, c: number): number {
  const product = a * b;
  const sum = product + c;
  const rounded = fround(sum);
  const rest = sum - rounded;
  if (rest === 0) return rounded;
  const other = sum + rest;
  if (fround(other) !== other) return rounded;
  const addend = sum - product;
  const lost = product - (sum - addend) + (c - addend);
  if (lost === 0) return rounded;
  return lost > 0 === other > rounded ? other : rounded;
}

const SQRT_HALF = fround(Math.SQRT1_2);
const LOG_TERMS = Float32Array.of(
  7.0376836292e-2,
  -1.151461031e-1,
  1.167699874e-1,
  -1.2420140846e-1,
  1.4249322787e-1,
  -1.6668057665e-1,
  2.0000714765e-1,
  -2.4999993993e-1,
  3.3333331174e-1,
);
const LOG2_LOW = fround(-2.1219444e-4);
const LOG2_HIGH = fround(0.693359375);

/** Natural logarithm of a float32 in (0, 1]. */
function logarithm(value: number): number {
  // value = fraction * 2^exponent with the fraction in [sqrt(1/2), sqrt(2)).
  let exponent = 32 - Math.clz32(value * 2 ** 24) - 24;
  let fraction = value * 2 ** -exponent;
  if (fraction < SQRT_HALF) {
    exponent -= 1;
    fraction += fraction;
  }
  const x = fround(fraction - 1);
  const square = fround(x * x);
  let y = LOG_TERMS[0]!;
  for (let i = 1; i < LOG_TERMS.length; i++) y = fusedMultiplyAdd(y, x, LOG_TERMS[i]!);
  y = fround(y * x);
  y = fusedMultiplyAdd(y, square, fround(exponent * LOG2_LOW));
  y = fusedMultiplyAdd(square, -0.5, y);
  return fusedMultiplyAdd(exponent, LOG2_HIGH, fround(x + y));
}

const FOUR_OVER_PI = fround(1.27323954473516);
const QUARTER_PI = Float32Array.of(-0.78515625, -2.4187564849853516e-4, -3.774894977445941e-8);
const COSINE_TERMS = Float32Array.of(
  2.443315711809948e-5,
  -1.388731625493765e-3,
  4.166664568298827e-2,
);
const SINE_TERMS = Float32Array.of(-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1);

/** Sine of a float32 in [0, 2 pi]. */
function sine(angle: number): number {
  const octant = evenOctant(angle);
  const rest = withinOctant(angle, octant);
  const value = (octant & 2) === 0 ? sineTerms(rest) : cosineTerms(rest);
  return (octant & 4) === 0 ? value : -value;
}

/** Cosine of a float32 in [0, 2 pi]. */
function cosine(angle: number): number {
  const octant = evenOctant(angle);
  const rest = withinOctant(angle, octant);
  const value = (octant & 2) === 0 ? cosineTerms(rest) : sineTerms(rest);
  return ((octant - 2) & 4) === 0 ? -value : value;
}

/** The nearest even multiple of pi / 4, counted in eighths of a turn: 0, 2, 4, 6 or 8. */
function evenOctant(angle: number): number {
  return (Math.trunc(fround(angle * FOUR_OVER_PI)) + 1) & ~1;
}

/** angle - octant * pi / 4, pi / 4 taken away in three parts so that no bit is lost. */
function withinOctant(angle: number, octant: number): number {
  let rest = fusedMultiplyAdd(octant, QUARTER_PI[0]!, angle);
  rest = fusedMultiplyAdd(octant, QUARTER_PI[1]!, rest);
  return fusedMultiplyAdd(octant, QUARTER_PI[2]!, rest);
}

function cosineTerms(x: number): number {
  const square = fround(x * x);
  let y = fusedMultiplyAdd(COSINE_TERMS[0]!, square, COSINE_TERMS[1]!);
  y = fusedMultiplyAdd(y, square, COSINE_TERMS[2]!);
  y = fround(y * square);
  y = fusedMultiplyAdd(y, square, square * -0.5);
  return fround(y + 1);
}

function sineTerms(x: number): number {
  const square = fround(x * x);
  let y = fusedMultiplyAdd(SINE_TERMS[0]!, square, SINE_TERMS[1]!);
  y = fusedMultiplyAdd(y, square, SINE_TERMS[2]!);
  y = fround(y * square);
  return fusedMultiplyAdd(y, x, x);
}
