// Decides whether blocks are what they are shown as. Functions of what they are given, all of them:
// no page, no network. The layouts and rules are those of docs/format.md.
//
// What is found comes as a list of steps, { part, name, holds, expected, found }, the last two as
// text. `holds` is null where it cannot be said. `part` is "header", "hash", "difficulty", "data",
// "links" or "signature", or "chain" where it is about no one block. A block as shown is { place, header, salts, facts, words, text, whole, waits }: header
// and salts in hex, facts as pairs of name and text, what is said of them in words as such pairs, the
// text of its data and whether that is all of it, and whether it is said not to be final.

import {
  LEAF, LOG, NODE, NotProved, hex, isHex, parseHeader, parseKey, parseNote, sha256, unhex, utf8, verifySignatures,
} from "/explorer/receipt.js";
import { LIMIT, bitsAfter, target, termsOf } from "/explorer/work.js";

export const KINDS = ["value", "batch", "record"];
const VALUE = 0, BATCH = 1, RECORD = 2;
export const HEADER_DIGITS = 208;
const SALT_BYTES = 16;
const SALTS_SHOWN = 100; // of a block, on its page
const LIMIT_63 = 2n ** 63n; // no index or timestamp reaches it
const AT_ONCE = 256; // hashes that are asked for together: the page stays quick meanwhile
const CYCLE = 146_097n * 86_400_000_000n; // µs of 400 years, after which the calendar repeats

// Why hashes cannot be computed here, or null if they can.
export function whyNot() {
  if (globalThis.crypto?.subtle) return null;
  return globalThis.isSecureContext ? "this browser has no cryptography (WebCrypto)"
    : "the page came by plain http from another machine, and browsers then withhold their " +
      "cryptography (WebCrypto). Open it by https, or from the node’s own machine";
}

// One step; unless it is said whether it holds, it does where both are the same.
export function step(part, name, expected, found, holds = expected === found) {
  return { part, name, holds, expected: String(expected), found: String(found) };
}

export const firstFailure = (steps) => steps.find(({ holds }) => holds === false);

const hex8 = (bits) => bits.toString(16).padStart(8, "0");

// The header and what is shown of it

// RFC 3339 with microseconds, as the JSON view of a block has it.
export function rfc3339(microseconds) {
  if (microseconds >= LIMIT_63) return String(microseconds);
  const iso = new Date(Number((microseconds % CYCLE) / 1000n)).toISOString();
  const year = BigInt(iso.slice(0, 4)) + 400n * (microseconds / CYCLE);
  return `${year}${iso.slice(4, 20)}${String(microseconds % 1_000_000n).padStart(6, "0")}Z`;
}

// The facts that a header and its hash stand for, written as in the JSON view.
export function written(header, hash) {
  return {
    index: String(header.index),
    timestamp: rfc3339(header.time),
    previous_hash: hex(header.previousHash),
    hash: hex(hash),
    kind: KINDS[header.kind] ?? String(header.kind),
    count: String(header.count),
    size: String(header.size),
    data_root: hex(header.dataRoot),
    bits: hex8(header.bits),
    nonce: header.nonce.toString(16).padStart(16, "0"),
  };
}

function checkWork({ bits, index, nonce }, hash) {
  if (bits === 0 || index === 0n) {
    const why = index === 0n ? "genesis is not mined" : "no work is asked for";
    const none = step("header", `the nonce is 0: ${why}`, 0n, nonce);
    if (bits === 0) return [none];
    return [none, step("header", "bits are a target", `a target of at most ${digits(LIMIT)}`,
      digits(target(bits)), target(bits) <= LIMIT && target(bits) !== null)];
  }
  const most = target(bits), met = most !== null && BigInt(`0x${hex(hash)}`) <= most;
  return [step("hash", "the hash meets the target that bits say", `at most ${digits(most)}`, hex(hash), met)];
}

const digits = (number) => number === null ? "none" : number.toString(16).padStart(64, "0");

function checkKind({ kind, index, bits }) {
  const allowed = index === 0n ? [RECORD] : bits === 0 ? [VALUE, BATCH, RECORD] : [BATCH];
  const names = allowed.map((one) => KINDS[one]).join(", ");
  return step("header", "kind is one that may stand here", names, KINDS[kind] ?? kind, allowed.includes(kind));
}

// Checks a block's header, and all that is shown of it. Returns { steps, header, bytes, hash }, the
// last three only of what is a header at all.
export async function checkHeader({ place, header: shown, facts }) {
  if (!isHex(shown, HEADER_DIGITS))
    return { steps: [step("header", "there is a header", `${HEADER_DIGITS} hex digits`, shown.slice(0, 300))] };
  const bytes = unhex(shown), header = parseHeader(bytes), hash = await sha256(LEAF, bytes);
  const right = { ...written(header, hash), header: shown };
  const steps = facts.map(([name, text]) => name === "hash"
    ? step("hash", "hash is SHA-256 of a zero byte and the header", right.hash, text)
    : step("header", `${name} is what the header says`, right[name] ?? "no such fact", text));
  steps.push(
    step("header", "version is 1", 1, header.version),
    step("header", "index is the place of the block", place, header.index),
    step("header", "timestamp is one", "below 2^63", header.time, header.time < LIMIT_63),
    checkKind(header),
    ...checkWork(header, hash),
  );
  if (header.kind !== BATCH) steps.push(step("header", "count is 1, but in a batch", 1n, header.count));
  if (header.index === 0n)
    steps.push(step("links", "nothing is before genesis", hex(new Uint8Array(32)), hex(header.previousHash)));
  return { steps, header, bytes, hash };
}

// Whether a block is the one that was asked for, by the path of its page: by index or by hash.
export function checkAsked({ header, hash }, path) {
  const [, asked] = path.match(/^\/blocks\/([0-9a-f]{64}|[0-9]{1,19})$/) ?? [];
  if (asked?.length === 64) return step("hash", "the block is the one that was asked for", asked, hex(hash));
  return step("header", "the block is the one that was asked for", asked ? BigInt(asked) : "an index or a hash", header.index);
}

// Blocks of a ledger are mined all of them, genesis among them, or none is. One that is not is final
// at once, so that there is a signature over it.
export const isMined = ({ bits }) => bits !== 0;

// What is said of a block in words, by name.
function wordsOf(header, { place, waits }) {
  const batch = isMined(header) ? "mined batch" : "batch", { kind } = header;
  const tagged = (text, tag) => [text, tag, waits && "not final yet"].filter(Boolean).join(" ");
  return {
    title: `Block ${place}`,
    heading: tagged(`Block ${place}`, place === 0n && "genesis"),
    when: tagged(rfc3339(header.time), [null, batch, "record of the ledger"][kind]),
    kind: ["one value", batch, "record of the ledger"][kind] ?? "not a kind that there is",
  };
}

const onOneLine = (text) => text.replace(/\s+/g, " ").trim();

// Checks what is said in words, but for the salts.
export function checkWords(header, { words, ...shown }) {
  const right = wordsOf(header, shown);
  const steps = words.map(([name, text]) => step("header", `${name}: the words are those for this block`, right[name] ?? "none", onOneLine(text)));
  if (shown.waits) // it would have to be mined to wait for others
    steps.push(step("header", "what is not mined is final at once", "final", isMined(header) ? "final" : "not final yet"));
  return steps;
}

// Checks the work that a mined block was asked for, by what stood before it: genesis, its header and
// the JSON that it records, and the header of the block before it in hex.
export function checkDifficulty({ bits, index }, genesis, text, before) {
  const terms = termsOf(genesis, text), previous = parseHeader(unhex(before));
  const wanted = terms ? bitsAfter(terms, { index: index - 1n, time: previous.time }) : 0;
  return step("difficulty", "bits are those that the ledger’s rule asks for", hex8(wanted), hex8(bits));
}

// Links: `before` and `after` are the headers of the blocks beside it in hex, or null.
export async function checkLinks({ header, hash }, before, after) {
  const steps = [];
  const read = (digits) => isHex(digits, HEADER_DIGITS) ? parseHeader(unhex(digits)) : null;
  if (before !== null) {
    const previous = read(before), index = header.index - 1n;
    steps.push(
      step("links", `previous_hash is the hash of block ${index}`, hex(header.previousHash),
        previous ? hex(await sha256(LEAF, unhex(before))) : "not a header"),
      step("links", `the block before has index ${index}`, index, previous?.index),
      step("links", "the block before is not later", `at most ${header.time}`, previous?.time,
        previous?.time <= header.time),
      sealedAlike(header, previous, "before"),
    );
  }
  if (after !== null) {
    const next = read(after), index = header.index + 1n;
    steps.push(
      step("links", `block ${index} has this hash as its previous_hash`, hex(hash),
        next ? hex(next.previousHash) : "not a header"),
      step("links", `the block after has index ${index}`, index, next?.index),
      sealedAlike(header, next, "after"),
    );
  }
  return steps;
}

// Checks that places of a list, as text, follow one another. Returns pairs of a place and the step that
// fails there.
export function checkPlaces(places, goUp) {
  return places.slice(1).flatMap((place, i) => {
    const before = places[i], wanted = /^\d+$/.test(before) ? BigInt(before) + (goUp ? 1n : -1n) : "a number";
    const next = step("links", `block ${wanted} is the next that is shown`, wanted, place, String(wanted) === place);
    return next.holds ? [] : [[before, next]];
  });
}

function sealedAlike(header, other, where) {
  const words = (mined) => mined ? "mined" : "not mined";
  return step("links", `the block ${where} is ${words(isMined(header))}, too`, words(isMined(header)), other ? words(isMined(other)) : "not a header");
}

// Data

export const isErased = (header, salts) => header.kind === VALUE && salts.length === 0;

async function hashAll(items, hash) {
  const hashes = [];
  for (let at = 0; at < items.length; at += AT_ONCE)
    hashes.push(...await Promise.all(items.slice(at, at + AT_ONCE).map(hash)));
  return hashes;
}

// The levels of the tree of RFC 9162, section 2.1.1, from its leaves to its root. A last hash
// without a neighbour moves up as it is: that makes the same tree as the definition.
export async function treeLevels(leaves) {
  const levels = [leaves.length ? leaves : [await sha256()]];
  while (levels.at(-1).length > 1) {
    const below = levels.at(-1), pairs = Array.from({ length: below.length >> 1 }, (_, i) => 2 * i);
    const level = await hashAll(pairs, (i) => sha256(NODE, below[i], below[i + 1]));
    levels.push(below.length % 2 ? [...level, below.at(-1)] : level);
  }
  return levels;
}

// Checks what stands in the place of a value that was erased.
export const checkErased = ({ dataRoot }, { text }) =>
  step("data", "the data shown is what is left of an erased value", `{"erased":"${hex(dataRoot)}"}`, text.replace(/\s/g, ""));

// Whether the JSON of a record says that the value of a block was erased: docs/format.md, "Erasure".
export function recordsErasure(text, { index, dataRoot }) {
  if (!text.startsWith(`{"id":"${hex(dataRoot)}","index":${index},"reason":"`) || canonicalFault(text) !== null) return false;
  const value = JSON.parse(text); // its first two members are the text above, since it is canonical
  return Object.keys(value).join() === "id,index,reason,record" && value.record === "erasure";
}

// Checks the salts that are shown, as text: the first of these.
export function checkSalts(salts, text) {
  const more = salts.length > SALTS_SHOWN ? [`and ${salts.length - SALTS_SHOWN} more`] : [];
  return step("data", "the salts shown are the salts", [...salts.slice(0, SALTS_SHOWN), ...more].join(" "), onOneLine(text));
}

// Checks the entries of a block: `texts` are their exact bytes, without salts. Returns { steps,
// levels }: the tree from the ids of the entries to the root.
export async function checkEntries(header, salts, texts) {
  const steps = [
    step("data", "count is the number of entries", header.count, BigInt(texts.length)),
    step("data", "every entry has a salt", texts.length, salts.filter((salt) => isHex(salt, 2 * SALT_BYTES)).length),
    step("data", "size is that of all entries with their salts", header.size,
      texts.reduce((size, text) => size + SALT_BYTES + text.length, 0)),
  ];
  if (firstFailure(steps)) return { steps, levels: [] };
  const places = texts.map((_, i) => i);
  const levels = await treeLevels(await hashAll(places, (i) => sha256(LEAF, unhex(salts[i]), texts[i])));
  steps.push(step("data", "data_root is the tree hash of the entries", hex(header.dataRoot), hex(levels.at(-1)[0])));
  const faults = places.map((i) => [i, faultIn(texts[i])]).filter(([, fault]) => fault !== null);
  const found = faults.length ? `entry ${faults[0][0]}: ${faults[0][1]}` : "it is";
  steps.push(step("data", "the data is in canonical form", "canonical JSON (RFC 8785)", found, faults.length === 0));
  return { steps, levels };
}

// The entries in the exact bytes of a block's data: of a batch, one a line.
export function entriesOf(header, bytes) {
  if (header.kind !== BATCH) return [bytes];
  const texts = [];
  for (let at = 0; at < bytes.length;) {
    const end = bytes.indexOf(0x0a, at);
    texts.push(bytes.subarray(at, end < 0 ? bytes.length : end));
    at = end < 0 ? bytes.length : end + 1;
  }
  return texts;
}

// The same of the data as it is shown, all of it: its canonical form is made anew.
export function entriesShown(header, text) {
  const all = [...tokens(text)];
  if (header.kind !== BATCH) return [utf8(all.join(""))];
  const texts = [];
  let depth = 0, entry = "";
  for (const token of all.slice(1, -1)) {
    depth += Number(token === "[" || token === "{") - Number(token === "]" || token === "}");
    if (token !== "," || depth > 0) {
      entry += token;
      continue;
    }
    texts.push(utf8(entry));
    entry = "";
  }
  return entry || texts.length ? [...texts, utf8(entry)] : [];
}

// Whether data is shown as it is: as the canonical JSON of these entries, or how that begins.
export function checkShown(header, texts, { text, whole }) {
  const lines = texts.map((bytes) => decode(bytes)), exact = header.kind === BATCH ? `[${lines.join(",")}]` : lines[0];
  let found;
  try {
    found = [...tokens(text, !whole)].join("");
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    found = text;
  }
  const expected = whole ? exact : exact.slice(0, found.length);
  const [wanted, had] = beside(expected, found);
  return step("data", "the data shown is the data", wanted, had, expected === found);
}

// Two texts where they begin to differ.
function beside(expected, found) {
  let at = 0;
  while (at < expected.length && expected[at] === found[at]) at += 1;
  const [start, stop] = [Math.max(at - 20, 0), at + 60];
  const cut = (text) => `${start ? "…" : ""}${text.slice(start, stop)}${text.length > stop ? "…" : ""}`;
  return [cut(expected), cut(found)];
}

const decode = (bytes, fatal = false) => new TextDecoder("utf-8", { ignoreBOM: true, fatal }).decode(bytes);

function faultIn(bytes) {
  try {
    return canonicalFault(decode(bytes, true));
  } catch (error) {
    if (error instanceof TypeError) return "not UTF-8";
    throw error;
  }
}

// JSON

const SPECIAL = /["\\\x00-\x1f]/g; // what ends a run of plain characters in a string
const ESCAPE = /\\(?:["\\\/bfnrt]|u[\da-fA-F]{4})/y;
const LEAST = /\\(?:["\\bfnrt]|u00(?:0[0-7be-f]|1[\da-f]))/y; // the escapes of canonical strings
const BLANK = /[ \t\n\r]*/y;
const PLAIN = /[[\]{},:]|[^\s"[\]{},:]+/y;
const NUMBER = /-?(?:0|[1-9]\d{0,400})(?:\.\d{1,400})?(?:[eE][+-]?\d{1,10})?/y;
const WORD = /true|false|null/y;

function match(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0] ?? null;
}

// Where the string that begins at a place of a text ends, after its quote. Less than that, and the
// negative of how far it goes, if it does not end; 0 if there is what may not stand in it. No pattern
// has to match a whole string: of a long one that takes much memory.
function stringEnd(text, start, escape) {
  for (let at = start + 1; ;) {
    SPECIAL.lastIndex = at;
    const { index, 0: char } = SPECIAL.exec(text) ?? { index: text.length };
    if (char === '"') return index + 1;
    if (char === undefined) return -index;
    const escaped = char === "\\" ? match(escape, text, index) : null;
    if (escaped === null) return /^\\(?:u[\da-fA-F]{0,3})?$/.test(text.slice(index, index + 6)) ? -index : 0;
    at = index + escaped.length;
  }
}

// The tokens of a JSON text, strings in canonical form. Of one that was cut, the last may be a part.
// Throws SyntaxError.
export function* tokens(text, isCut = false) {
  let wasValue = false; // what was before: two values apart are not one
  for (let at = match(BLANK, text, 0).length; at < text.length;) {
    let end = at;
    const isValue = !"[]{},:".includes(text[at]);
    if (isValue && wasValue) throw new SyntaxError("two values side by side");
    wasValue = isValue;
    if (text[at] === '"') {
      end = stringEnd(text, at, ESCAPE);
      if (end < 0 && isCut) {
        yield JSON.stringify(JSON.parse(`${text.slice(at, -end)}"`)).slice(0, -1);
        return;
      }
      if (!(end > at)) throw new SyntaxError("a string without an end");
      yield JSON.stringify(JSON.parse(text.slice(at, end)));
    } else {
      const token = match(PLAIN, text, at);
      if (token === null) throw new SyntaxError("not JSON");
      yield token;
      end += token.length;
    }
    at = end + match(BLANK, text, end).length;
  }
}

// What is wrong with a text that should be canonical JSON, or null. RFC 8785, but an integer of 64
// bits keeps its digits.
export function canonicalFault(text) {
  const keys = []; // of the objects that are open, the last key; of arrays null
  const fault = (at, what) => `${what} at character ${at}`;
  for (let at = 0, wants = "value"; ;) {
    const char = text[at];
    if (wants === "end") return at === text.length ? null : fault(at, "something after the value");
    if (wants === "next") {
      const close = keys.at(-1) === null ? "]" : "}";
      if (char === close) keys.pop();
      else if (char !== ",") return fault(at, `neither a comma nor ${close}`);
      wants = char === "," ? (keys.at(-1) === null ? "value" : "key") : keys.length ? "next" : "end";
      at += 1;
      continue;
    }
    if ((char === "]" && wants === "first") || (char === "}" && wants === "first key")) {
      keys.pop();
      wants = keys.length ? "next" : "end";
      at += 1;
      continue;
    }
    if (wants.endsWith("key")) {
      const end = char === '"' ? stringEnd(text, at, LEAST) : 0;
      if (!(end > at) || text[end] !== ":") return fault(at, "not a canonical key");
      const key = JSON.parse(text.slice(at, end));
      if (keys.at(-1) !== undefined && key <= keys.at(-1)) return fault(at, "a key out of order");
      keys[keys.length - 1] = key;
      [at, wants] = [end + 1, "value"];
      continue;
    }
    if (char === "[" || char === "{") {
      keys.push(char === "[" ? null : undefined);
      wants = char === "[" ? "first" : "first key";
      at += 1;
      continue;
    }
    const end = char === '"' ? stringEnd(text, at, LEAST) : at + scalarLength(text, at);
    if (!(end > at)) return fault(at, "not a canonical value");
    at = end;
    wants = keys.length ? "next" : "end";
  }
}

function scalarLength(text, at) {
  const word = match(WORD, text, at);
  if (word !== null) return word.length;
  const number = match(NUMBER, text, at);
  if (number === null) return 0;
  const isInteger = /^-?\d+$/.test(number) && number !== "-0";
  const fits = isInteger && BigInt(number) >= -LIMIT_63 && BigInt(number) < 2n * LIMIT_63;
  return fits || String(Number(number)) === number ? number.length : 0;
}

// Checkpoints

const TILE = 256n; // hashes in a full tile, 8 levels of the tree

// Where a tile is served (C2SP tlog-tiles), of a tree of `size` leaves.
export function tilePath(level, number, size) {
  const width = (size >> BigInt(8 * level)) - number * TILE, digits = String(number);
  const groups = digits.padStart(Math.ceil(digits.length / 3) * 3, "0").match(/.../g);
  const folders = groups.slice(0, -1).map((group) => `x${group}/`).join("");
  return `/tile/${level}/${folders}${groups.at(-1)}${width < TILE ? `.p/${width}` : ""}`;
}

// Proves which hash is leaf `index` of the tree with that size and root: returns it. `read` gives the
// bytes of a tile by its path. Throws NotProved where they do not lead to the root.
export async function leafOf(index, size, root, read) {
  const tiles = new Map();
  const node = async (level, number) => { // of 2^level leaves
    if (level % 8) return sha256(NODE, await node(level - 1, 2n * number), await node(level - 1, 2n * number + 1n));
    const path = tilePath(level / 8, number / TILE, size), at = 32 * Number(number % TILE);
    if (!tiles.has(path)) tiles.set(path, await read(path));
    const hash = tiles.get(path).slice(at, at + 32);
    if (hash.length !== 32) throw new NotProved(`${path} is too short`);
    return hash;
  };
  const subtree = async (start, stop) => { // MTH of RFC 9162, section 2.1.1
    let level = 0;
    while (2n ** BigInt(level + 1) <= stop - start) level += 1;
    const split = 2n ** BigInt(level);
    if (split === stop - start) return node(level, start / split);
    return sha256(NODE, await node(level, start / split), await subtree(start + split, stop));
  };
  const leaf = await node(0, index);
  const path = async (start, stop) => { // from that very leaf
    if (stop - start === 1n) return leaf;
    let split = 1n;
    while (2n * split < stop - start) split *= 2n;
    const middle = start + split;
    return index < middle ? sha256(NODE, await path(start, middle), await subtree(middle, stop))
      : sha256(NODE, await subtree(start, middle), await path(middle, stop));
  };
  const found = await path(0n, size);
  if (hex(found) !== hex(root))
    throw new NotProved("the tiles do not lead to the root that was signed", hex(root), hex(found));
  return leaf;
}

// What this browser was shown before, as memory.js has it: { memory, ledger, isLoopback }

// Steps that hold blocks of a page to it, whatever the node may say: `known` are pairs of the index
// and the hash of one.
export function checkRemembered({ memory, ledger, isLoopback }, known) {
  const seen = memory.get(ledger);
  if (seen) return known.filter(([index]) => index === lastOf(seen)).map(([, hash]) => sameAsBefore(seen, hash));
  if (memory.size === 0 || isLoopback) return [];
  return [step("signature", "the ledger is the one that was here before", [...memory.keys()].join(", "), ledger)];
}

export const lastOf = ({ size }) => BigInt(size) - 1n;

const sameAsBefore = (seen, hash) =>
  step("signature", `block ${lastOf(seen)} is the one that was shown before`, seen.hash, hex(hash));

export const notShorter = (seen, size) =>
  step("signature", "the ledger has not become shorter", `at least ${seen.size} blocks`, `${size} blocks`, size >= BigInt(seen.size));

// The same for a checkpoint: `then` is the hash that its tree has now for the last block of that
// time, null if it is too small to have it.
export function checkMemory(seen, { signer, size }, then) {
  const steps = [step("signature", "signed by the key that this browser remembers", seen.key, signer), notShorter(seen, size)];
  return then === null ? steps : [...steps, sameAsBefore(seen, then)];
}

// The key that the old one names in a record of the ledger, if that is what this text records; else
// null. Whether the record is in the ledger is another question.
export async function successor(text, origin, vkey) {
  try {
    const value = JSON.parse(text), note = parseNote(value.note);
    const [name, what, next, ...more] = note.lines;
    if (value.record !== "key" || name !== origin || what !== "new key" || more.length) return null;
    const old = await parseKey(vkey), { times } = await verifySignatures(old, note), key = await parseKey(next);
    return times.length && key.name === origin && key.type === LOG ? next : null;
  } catch { // anything may stand in a record
    return null;
  }
}
