// Checks one block in a thread of its own, so that the page stays quick whatever its size: against
// its header, its exact bytes, the blocks beside it, and a checkpoint whose signer the page remembers.
// It cannot ask the node itself: the page does, and hands over what the node says.

import {
  checkEntries, checkErased, checkHeader, checkLinks, checkMemory, checkSalts, checkShown, checkWords, entriesOf, firstFailure,
  isErased, isMined, leafOf, step, successor,
} from "/explorer/check.js";
import { NotProved, hex, parseCheckpoint, parseReceipt, verifyReceipt } from "/explorer/receipt.js";

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
// and so is one for which the node refuses what is `required`.
async function attempt(part, name, run, required = "") {
  try {
    return await run();
  } catch (error) {
    if (error instanceof NotProved) return [step(part, name, error.expected, error.found || error.message, false)];
    if (!(error instanceof Unavailable)) throw error;
    const isRefusal = error.status >= 400 && error.status < 500 && !BUSY.includes(error.status);
    return [{ ...step(part, name, required, error.message), holds: isRefusal && required ? false : null }];
  }
}

const open = (part, name, found = "") => ({ part, name, holds: null, expected: "", found });

// Links

async function checkBeside(block, { place, before, after }) {
  const steps = await checkLinks(block, before, after);
  if (before === null && place > 0n) steps.push(open("links", `block ${place - 1n}: the page does not have its header`));
  return steps;
}

// Data

async function checkData({ header }, shown) {
  if (isErased(header, shown.salts)) {
    const erased = open("data", "the data was erased: only the hash of it is left, so it cannot be checked");
    return { steps: [checkErased(header, shown), checkSalts([], shown.saltsText), erased] };
  }
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

// Signature

async function checkSignature({ header, hash }, shown, { memory, ledger: named, isLab, isLoopback }) {
  const hasReceipt = header.count > 0n && !isErased(header, shown.salts);
  if (!hasReceipt) await getBytes(`/checkpoint?covering=${shown.place + 1n}`); // then genesis has a receipt under it
  const text = await getText(`/blocks/${hasReceipt ? shown.place : 0n}/receipt`);
  const receipt = parseReceipt(text), checkpoint = parseCheckpoint(receipt.checkpoint);
  const { origin, size, root } = checkpoint, ledger = origin.slice("cairn/".length);
  const seen = memory.get(ledger), isOther = !seen && memory.size > 0;
  const steps = [step("signature", "the ledger is the one that the page names", named, ledger)];
  if (hasReceipt) steps.push(step("signature", "the receipt is of this block", shown.header, receipt.header));
  if (isOther && !isLoopback)
    steps.push(step("signature", "the ledger is the one that was here before", [...memory.keys()].join(", "), ledger));
  const { signer, steps: proof } = await prove(text, seen, checkpoint);
  steps.push(...proof);
  if (!signer || firstFailure(steps)) return { steps };

  const leaf = (index) => leafOf(index, size, root, getBytes);
  if (!hasReceipt) {
    const there = shown.place < size ? hex(await leaf(shown.place)) : `a ledger of ${size} blocks`;
    steps.push(step("signature", "the block is in the ledger that was signed", hex(hash), there));
  }
  if (seen) {
    const last = BigInt(seen.size) - 1n;
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
  let key = old, path = `/blocks?contains=${encodeURIComponent(KEY_CHANGE)}`;
  for (let page = 0; path && page < SEARCHES && key !== wanted; page++) {
    const { blocks, next } = await getJson(path);
    for (const { index, header: digits, salt, kind } of blocks.filter((block) => block.kind === "record")) {
      const text = await getBytes(`/blocks/${index}/data`);
      const named = await successor(new TextDecoder().decode(text), origin, key);
      if (named === null || BigInt(index) >= size) continue;
      const block = await checkHeader({ place: BigInt(index), header: digits, facts: [["kind", kind]] });
      const entries = block.header ? (await checkEntries(block.header, [salt], [text])).steps : [];
      const leaf = await leafOf(BigInt(index), size, root, getBytes);
      const found = [...block.steps, ...entries, step("signature", "the record is in the ledger", hex(leaf), hex(block.hash))];
      if (firstFailure(found)) return found;
      steps.push(step("signature", `the key was changed in block ${index}, by the old one`, named, named));
      key = named;
    }
    path = next;
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

// All of it

async function checkBlock(shown, page) {
  const found = await checkHeader(shown), { header, steps } = found;
  if (!header) return { steps };
  let levels = [], signature = {};
  steps.push(...checkWords(header, shown), ...await checkBeside(found, shown));
  steps.push(...await attempt("data", "its exact bytes", async () => {
    const data = await checkData(found, shown);
    levels = data.levels ?? [];
    return data.steps;
  }));
  if (shown.waits && isMined(header)) steps.push(checkWaiting(shown, page));
  else
    steps.push(...await attempt("signature", "its receipt", async () => {
      signature = await checkSignature(found, shown, page);
      return signature.steps;
    }, "a receipt, as there is of every block that is final"));
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
