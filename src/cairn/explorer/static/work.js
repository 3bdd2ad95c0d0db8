// Proof of work: compact targets as Bitcoin has them, and by ASERT (aserti3-2d) the one that a block
// must have. As docs/format.md says, "Work"; all in integers. No page, no network.

const EASIEST = 0x207fffff; // target that every second hash meets
const RADIX = 65_536n; // exponents have 16 binary digits after the point
const FAR = 512n * RADIX; // past it every target is out of range: keeps shifts small

// The number that compact bits stand for, or null if they are no target.
export function target(bits) {
  const length = bits >>> 24, digits = bits & 0xffffff;
  const number = length > 3 ? BigInt(digits) << BigInt(8 * (length - 3)) : BigInt(digits >>> (8 * (3 - length)));
  return digits < 0x800000 && number > 0n && number < 2n ** 256n ? number : null;
}

// The easiest target that there may be.
export const LIMIT = target(EASIEST);

// The bits of a target below 2^256, rounded down.
export function compact(number) {
  let length = Math.ceil(number.toString(2).length / 8);
  let digits = Number(length > 3 ? number >> BigInt(8 * (length - 3)) : number << BigInt(8 * (3 - length)));
  if (digits >= 0x800000) { // that bit is the sign
    digits >>= 8;
    length += 1;
  }
  return length * 2 ** 24 + digits;
}

// What genesis, its header and the JSON that it records, asks of blocks: null if there is no work.
// Bits that are no target count as the easiest one.
export function termsOf({ bits, time }, text) {
  const { seal } = JSON.parse(text);
  if (seal?.kind !== "work") return null;
  const first = target(bits), interval = BigInt(seal.interval);
  return { first: first !== null && first <= LIMIT ? first : LIMIT, start: time - interval, interval, halfLife: BigInt(seal.half_life) };
}

// The bits of the block after that of this index and timestamp.
export function bitsAfter({ first, start, interval, halfLife }, { index, time }) {
  const late = time - start - interval * (index + 1n), size = (late < 0n ? -late : late) * RADIX / halfLife;
  const bounded = size < FAR ? size : FAR, exponent = late < 0n ? -bounded : bounded;
  const x = BigInt.asUintN(16, exponent), shift = (exponent - x) / RADIX - 16n;
  const factor = RADIX + ((195_766_423_245_049n * x + 971_821_376n * x ** 2n + 5_127n * x ** 3n + 2n ** 47n) >> 48n);
  const next = (first * factor) << shift; // one below zero shifts to the right
  return compact(next < 1n ? 1n : next > LIMIT ? LIMIT : next);
}
