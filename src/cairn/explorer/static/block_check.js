// Checks one block in a thread of its own, so that the page stays quick whatever its size: against
// its header, its exact bytes, the blocks beside it, and a checkpoint whose signer the page remembers.
// It cannot ask the node itself: the page does, and hands over what the node says.

import {
  HEADER_DIGITS, checkAsked, checkDifficulty, checkEntries, checkErased, checkHeader, checkLinks, checkMemory, checkRemembered,
  checkSalts, checkShown, checkWords, entriesOf, firstFailure, isErased, isMined, lastOf, leafOf, recordsErasure, step, successor,
} from "/explorer/check.js";
import { LEAF, NotProved, hex, isHex, parseCheckpoint, parseReceipt, sha256, unhex, verifyReceipt } from "/explorer/receipt.js";

const KEY_CHANGE = '"record":"key"}'; // in every record of one
const SEARCHES = 100; // pages of what was found that are read at most
const SHOWN_HASHES = 16; // of a level of the tree
const BUSY = [408, 425, 429]; // refusals that are none of what was asked for

class Unavailable extends Error {} // the node did not give what was asked for

// Asking the node

const waiting = new Map(); // by number of what was asked
let asked = 0;

function getBytes(path) {
  postMessage({ ask: path, id: asked });
  return new Promise((resolve, reject) => waiting.set(asked++, { resolve, reject }));
}

async function heard({ id, parts, problem }) {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (problem) reject(Object.assign(new Unavailable(problem.detail), { status: problem.status }));
  else resolve(new Uint8Array(await new Blob(parts).arrayBuffer()));
}

const getText = async (path) => new TextDecoder().decode(await getBytes(path));

async function getJson(path) {
  const text = await getText(path);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new NotProved(`${path} should be JSON, but is not (${error.message})`, "JSON", text.slice(0, 80));
  }
}

// Steps that cannot be taken for want of an answer are open; a proof that fails is a step that fails,
// and so is one for which the node refuses what is `required`. An answer that this script trips over
// leaves its steps open, too: what was found without it stands.
async function attempt(part, name, run, required = "") {
  try {
    return await run();
  } catch (error) {
    if (error instanceof NotProved) return [step(part, name, error.expected, error.found || error.message, false)];
    if (!(error instanceof Unavailable)) {
      console.error(error);
      return [open(part, name, `the script of this page failed: ${error}`)];
    }
    const isRefusal = error.status >= 400 && error.status < 500 && !BUSY.includes(error.status);
    return [{ ...step(part, name, required, error.message), holds: isRefusal && required ? false : null }];
  }
}

const open = (part, name, found = "") => ({ part, name, holds: null, expected: "", found });

// Records of the ledger, by which it says of itself what it does

// Records from a place on that have a text in them, as they are found: { index, text, hash, steps }, of
// which the last are whether it is a record at all. Whether it is in the ledger is another question.
async function* records(contains, start = 0n) {
  let path = `/blocks?${new URLSearchParams({ contains, cursor: start })}`;
  for (let page = 0; path; page++) {
    if (page === SEARCHES) throw new Unavailable(`more than ${SEARCHES} pages were found`);
    const { blocks, next } = await getJson(path);
    for (const view of blocks.filter(({ kind }) => kind === "record")) yield readRecord(view);
    path = next;
  }
}

// Reads the one entry of a block as its exact bytes; `view` is what else is said of the block.
async function readRecord({ index, header: digits, salt }) {
  const bytes = await getBytes(`/blocks/${index}/data`), text = new TextDecoder().decode(bytes);
  const { header, hash, steps } = await checkHeader({ place: BigInt(index), header: digits, facts: [["kind", "record"]] });
  if (header) steps.push(...(await checkEntries(header, [salt], [bytes])).steps);
  return { index: BigInt(index), text, header, hash, steps };
}

// What stands beside it

// What the page shows of this block and those beside it, as pairs of index and hash.
async function placesOf({ hash }, { place, before, after }) {
  const beside = [[place - 1n, before], [place + 1n, after]].filter(([, digits]) => isHex(digits, HEADER_DIGITS));
  return [[place, hash], ...await Promise.all(beside.map(async ([at, digits]) => [at, await sha256(LEAF, unhex(digits))]))];
}

async function checkBeside(block, { place, before, after }) {
  const steps = await checkLinks(block, before, after);
  if (before === null && place > 0n) steps.push(open("links", `block ${place - 1n}: the page does not have its header`));
  return steps;
}

async function checkWorkAsked({ header }, { place, before }, { ledger }) {
  if (!isHex(before, HEADER_DIGITS)) return [open("difficulty", "difficulty", `the page does not have the header of block ${place - 1n}`)];
  const genesis = await readRecord(await getJson("/blocks/0"));
  const steps = [...genesis.steps, step("difficulty", "it is that of the ledger", ledger, genesis.hash ? hex(genesis.hash) : "not a header")];
  const failure = firstFailure(steps);
  if (failure) return [{ ...failure, part: "difficulty", name: `genesis: ${failure.name}` }];
  return [checkDifficulty(header, genesis.header, genesis.text, before)];
}

// Data

async function checkData({ header }, shown) {
  if (isErased(header, shown.salts)) return { steps: [checkErased(header, shown), checkSalts([], shown.saltsText)] };
  const texts = entriesOf(header, await getBytes(`/blocks/${shown.place}/data`));
  let { salts } = shown;
  if (BigInt(salts.length) !== header.count) { // of a large batch the page has none
    const { salt } = await getJson(`/blocks/${shown.place}`);
    salts = Array.isArray(salt) ? salt : [salt];
  }
  const { steps, levels } = await checkEntries(header, salts, texts);
  if (!firstFailure(steps)) steps.push(checkShown(header, texts, shown), checkSalts(salts, shown.saltsText));
  return { steps, levels };
}

// That a value was erased a later record says. Returns { steps, record }; whether that is in the
// ledger its signature says.
async function checkErasure({ header }, { place }) {
  try {
    for await (const record of records(`{"id":"${hex(header.dataRoot)}","index":${place},`, place + 1n))
      if (record.header && recordsErasure(record.text, header)) return { steps: record.steps, record };
  } catch (error) {
    if (!(error instanceof Unavailable) || !await isGiven(`/blocks/${place}/receipt`)) throw error;
    return { steps: [step("data", "there is no receipt of a value that was erased", "none", "the node gives one", false)] };
  }
  return { steps: [step("data", "a later block records that the value was erased on purpose", "a record", "none", false)] };
}

async function isGiven(path) {
  try {
    await getBytes(path);
    return true;
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    return false;
  }
}

const UNRECORDED = "its data: only the node says that it was erased";

const erasedBy = (record, signature) => signature.ledger
  ? open("data", `its data, which was erased on purpose, as block ${record.index} records: only its hash is left`)
  : open("data", UNRECORDED);

// Signature

async function checkSignature({ header, hash }, shown, record, { memory, ledger: named, isLab }) {
  const hasReceipt = header.count > 0n && !isErased(header, shown.salts);
  const covering = record ? record.index : shown.place;
  if (!hasReceipt) await getBytes(`/checkpoint?covering=${covering + 1n}`); // then genesis has a receipt under it
  const text = await getText(`/blocks/${hasReceipt ? shown.place : 0n}/receipt`);
  const receipt = parseReceipt(text), checkpoint = parseCheckpoint(receipt.checkpoint);
  const { origin, size, root } = checkpoint, ledger = origin.slice("cairn/".length);
  const seen = memory.get(ledger), isOther = !seen && memory.size > 0;
  const steps = [step("signature", "the ledger is the one that the page names", named, ledger)];
  if (hasReceipt) steps.push(step("signature", "the receipt is of this block", shown.header, receipt.header));
  const { signer, steps: proof } = await prove(text, seen, checkpoint);
  steps.push(...proof);
  if (!signer || firstFailure(steps)) return { steps };

  const leaf = (index) => leafOf(index, size, root, getBytes);
  if (!hasReceipt) {
    const there = shown.place < size ? hex(await leaf(shown.place)) : `a ledger of ${size} blocks`;
    steps.push(step("signature", "the block is in the ledger that was signed", hex(hash), there));
  }
  if (record) {
    const there = record.index < size ? hex(await leaf(record.index)) : `a ledger of ${size} blocks`;
    steps.push(step("data", "the record of the erasure is in the ledger that was signed", hex(record.hash), there));
  }
  if (seen) {
    const last = lastOf(seen);
    steps.push(...checkMemory(seen, { signer, size }, last < size ? await leaf(last) : null));
  } else {
    steps.push(step("signature", "the ledger begins with its genesis", ledger, hex(await leaf(0n))));
  }
  if (firstFailure(steps)) return { steps };
  const learned = isLab ? null : { key: signer, size: Number(size), hash: hex(await leaf(size - 1n)) };
  return { steps, signer, ledger, learned, isNew: !seen, isOther };
}

// Verifies a receipt by the key that was seen before, or else by the one that it names itself. Returns
// { signer, steps }.
async function prove(text, seen, checkpoint) {
  const proof = await verifyReceipt(text, seen ? [seen.key] : []);
  if (proof.log) return { signer: proof.log, steps: asSteps(proof) };
  if (!seen) return { steps: [...asSteps(proof), nobody] };
  const { log, ...other } = await verifyReceipt(text, []); // is anything wrong but the key?
  if (!log) return { steps: asSteps(proof) };
  const changes = await keyChanges(seen.key, log, checkpoint);
  if (changes) seen.key = log;
  return { signer: log, steps: [...asSteps(other), ...changes ?? checkMemory(seen, { ...checkpoint, signer: log }, null)] };
}

const nobody = step("signature", "a key of the ledger has signed", "a signature", "none whose key is named", false);

// The steps of a proof, but for those about keys that people give: here it is the page that knows.
function asSteps({ verdict, reason, steps }) {
  if (verdict === "cannot check") return [open("signature", "the receipt", reason)];
  return steps.filter(({ name, holds }) => holds === false || (holds && !name.includes("you trust")))
    .map(({ name, holds, said, expected, found }) => step("signature", name, expected || "", found || said, holds));
}

// Steps from the old key to the new one by the ledger's own records, null if there is no such way.
async function keyChanges(old, wanted, { origin, size, root }) {
  const steps = [];
  let key = old;
  for await (const { index, text, hash, steps: own } of records(KEY_CHANGE)) {
    const named = await successor(text, origin, key);
    if (named === null || index >= size) continue;
    const leaf = await leafOf(index, size, root, getBytes);
    const found = [...own, step("signature", "the record is in the ledger", hex(leaf), hash ? hex(hash) : "not a header")];
    if (firstFailure(found)) return found;
    steps.push(step("signature", `the key was changed in block ${index}, by the old one`, named, named));
    key = named;
    if (key === wanted) break;
  }
  return key === wanted ? steps : null;
}

function checkWaiting({ missing, place }, { memory, ledger }) {
  const size = memory.get(ledger)?.size ?? 0;
  if (place < BigInt(size))
    return step("signature", `the block is final: the first ${size} were signed before`, "final", "not final yet", false);
  return open("signature", `it is not signed yet: ${missing || "some"} ${missing === "1" ? "block has" : "blocks have"} ` +
    "to follow until it is final");
}

// Where there is no receipt, the checkpoint without it: whether the tree of the chain is the one that
// was signed, and this block in it. That nothing contradicts it is no proof.
async function checkTree({ hash }, { place }) {
  const { size, root } = parseCheckpoint(await getText(`/checkpoint?covering=${place + 1n}`));
  try {
    const leaf = hex(await leafOf(place, size, root, getBytes));
    return [step("signature", "the block is in the ledger that was signed", hex(hash), leaf)];
  } catch (error) {
    if (!(error instanceof NotProved)) throw error;
    return [step("chain", "this chain is the one that was signed", error.expected, error.found || error.message, false)];
  }
}

// All of it

async function checkBlock(shown, page) {
  const found = await checkHeader(shown), { header, steps } = found;
  if (!header) return { steps };
  let levels = [], signature = {}, record = null;
  steps.push(checkAsked(found, page.path), ...checkWords(header, shown), ...await checkBeside(found, shown));
  steps.push(...checkRemembered(page, await placesOf(found, shown)));
  if (isMined(header) && shown.place > 0n)
    steps.push(...await attempt("difficulty", "difficulty", () => checkWorkAsked(found, shown, page)));
  steps.push(...await attempt("data", "its exact bytes", async () => {
    const data = await checkData(found, shown);
    levels = data.levels ?? [];
    return data.steps;
  }));
  if (isErased(header, shown.salts))
    steps.push(...await attempt("data", UNRECORDED, async () => {
      const erasure = await checkErasure(found, shown);
      record = erasure.record ?? null;
      return erasure.steps;
    }));
  if (shown.waits && isMined(header)) steps.push(checkWaiting(shown, page));
  else {
    const receipt = await attempt("signature", "its receipt", async () => {
      signature = await checkSignature(found, shown, record, page);
      return signature.steps;
    }, "a receipt, as there is of every block that is final");
    steps.push(...receipt);
    if (receipt.some(({ name, holds }) => name === "its receipt" && holds === null))
      steps.push(...(await attempt("signature", "the checkpoint", () => checkTree(found, shown))).filter(({ holds }) => holds === false));
  }
  if (record) steps.push(erasedBy(record, signature));
  return { ...found, levels: levels.map(beginning), signature };
}

const beginning = (hashes) => ({ hashes: hashes.slice(0, SHOWN_HASHES).map(hex), more: Math.max(hashes.length - SHOWN_HASHES, 0) });

onmessage = async ({ data }) => {
  if ("id" in data) heard(data);
  else
    try {
      postMessage({ found: await checkBlock(data.shown, data.page) });
    } catch (error) {
      postMessage({ failed: String(error) });
      throw error;
    }
};
