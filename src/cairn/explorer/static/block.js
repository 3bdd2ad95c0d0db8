// Checks the block of a page in this browser: against its header, its exact bytes, the blocks beside
// it, and a checkpoint whose signer this browser remembers. Shows how, byte by byte.

import { comparison, make, mark, readBlock } from "/explorer/article.js";
import {
  checkEntries, checkHeader, checkLinks, checkMemory, checkShown, entriesOf, firstFailure, isErased, leafOf, step, successor,
  whyNot, written,
} from "/explorer/check.js";
import { NotProved, hex, parseCheckpoint, parseReceipt, unhex, verifyReceipt } from "/explorer/receipt.js";

const PATIENCE = 60_000; // ms that an answer may take: a receipt may have to be signed first
const PREFIX = "cairn:"; // of what this browser remembers; the hash of genesis follows
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/; // where ledgers come and go
const KEY_CHANGE = '"record":"key"}'; // in every record of one
const SEARCHES = 100; // pages of what was found that are read at most
const SHOWN_HASHES = 16; // of a level of the tree
const FIELDS = [
  ["version", 0, 2], ["kind", 2, 4], ["bits", 4, 8], ["index", 8, 16], ["previous_hash", 16, 48],
  ["timestamp", 48, 56], ["count", 56, 60], ["size", 60, 64], ["data_root", 64, 96], ["nonce", 96, 104],
];
const PARTS = ["hash", "header", "data", "links", "signature"];

class Unavailable extends Error {} // the node did not give what was asked for

// Asking the node

async function get(path, read) {
  const signal = AbortSignal.timeout(PATIENCE);
  let answer;
  try {
    answer = await fetch(path, { headers: { Accept: "application/json" }, cache: "no-store", signal });
    if (answer.ok) return await read(answer);
  } catch (error) {
    throw new Unavailable(`the node did not answer (${error.message})`);
  }
  const problem = await answer.json().catch(() => ({}));
  throw Object.assign(new Unavailable(problem.detail ?? `the node answered ${answer.status}`), problem);
}

const getJson = (path) => get(path, (answer) => answer.json());
const getText = (path) => get(path, (answer) => answer.text());
const getBytes = async (path) => new Uint8Array(await get(path, (answer) => answer.arrayBuffer()));

// Steps that cannot be taken for want of an answer are open; a proof that fails is a step that fails.
async function attempt(part, name, run) {
  try {
    return await run();
  } catch (error) {
    if (error instanceof Unavailable) return [{ ...step(part, name, "", error.message), holds: null }];
    if (error instanceof NotProved) return [step(part, name, error.expected, error.found || error.message, false)];
    throw error;
  }
}

const open = (part, name) => ({ part, name, holds: null, expected: "", found: "" });

// What this browser remembers

function remembered() { // by ledger; before anything is asked, so that nothing newer is held against it
  const found = new Map();
  try {
    for (const name of Object.keys(localStorage))
      if (name.startsWith(PREFIX)) {
        const seen = JSON.parse(localStorage.getItem(name));
        if (Number.isSafeInteger(seen.size) && seen.size > 0) found.set(name.slice(PREFIX.length), seen);
      }
  } catch { // it is switched off, or holds what is not ours
  }
  return found;
}

function remember(ledger, seen) {
  try {
    const now = remembered().get(ledger); // another page may have been here meanwhile
    if (!now || now.size <= seen.size) localStorage.setItem(PREFIX + ledger, JSON.stringify(seen));
  } catch { // without storage every visit is the first
  }
}

// Data

async function checkData({ header }, shown, all) {
  if (isErased(header, shown.salts))
    return { steps: [open("data", "the data was erased: only the hash of it is left, so it cannot be checked")] };
  const bytes = await getBytes(`/blocks/${shown.place}/data`), texts = entriesOf(header, bytes);
  const salts = all ?? shown.salts;
  const { steps, levels } = await checkEntries(header, salts, texts);
  const first = salts.slice(0, shown.salts.length);
  steps.push(step("data", "the salts shown are the salts", first.join(" "), shown.salts.join(" ")));
  if (!firstFailure(steps)) steps.push(checkShown(header, texts, shown));
  return { steps, levels };
}

// Signature

async function checkSignature({ header, hash }, shown, memory) {
  const isErasedHere = isErased(header, shown.salts), place = isErasedHere ? 0n : shown.place;
  const text = await getText(`/blocks/${place}/receipt`); // of what is erased there is none
  const receipt = parseReceipt(text), checkpoint = parseCheckpoint(receipt.checkpoint);
  const { origin, size, root } = checkpoint, ledger = origin.slice("cairn/".length);
  const seen = memory.get(ledger), steps = [];
  if (!isErasedHere)
    steps.push(step("signature", "the receipt is of this block", shown.header, receipt.header));
  if (!seen && memory.size && !LOOPBACK.test(location.hostname))
    steps.push(step("signature", "the ledger is the one that was here before", [...memory.keys()].join(", "), ledger));
  const { signer, steps: proof } = await prove(text, seen, checkpoint);
  steps.push(...proof);
  if (!signer || firstFailure(steps)) return { steps };

  const leaf = (index) => leafOf(index, size, root, getBytes);
  if (isErasedHere) {
    const there = shown.place < size ? hex(await leaf(shown.place)) : `a ledger of ${size} blocks`;
    steps.push(step("signature", "the block is in the ledger that was signed", hex(hash), there));
  }
  if (seen) {
    const last = BigInt(seen.size) - 1n;
    steps.push(...checkMemory(seen, { signer, size }, last < size ? await leaf(last) : null));
  } else {
    steps.push(step("signature", "the ledger begins with its genesis", ledger, hex(await leaf(0n))));
  }
  if (!firstFailure(steps)) remember(ledger, { key: signer, size: Number(size), hash: hex(await leaf(size - 1n)) });
  return { steps, signer, isNew: !seen };
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

// The steps of a proof, but for those about keys that people give: here it is the browser that knows.
function asSteps({ verdict, reason, steps }) {
  if (verdict === "cannot check") return [{ ...open("signature", "the receipt"), found: reason }];
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

// All of it

async function neighbours({ place }) {
  const start = place > 0n ? place - 1n : 0n;
  const { chain, length } = await getJson(`/?start=${start}&limit=3`);
  const at = async (index) => index < 0n || index >= length ? null // a page of large blocks is cut short
    : chain[Number(index - start)] ?? await getJson(`/blocks/${index}`);
  return { before: await at(place - 1n), here: await at(place), after: await at(place + 1n) };
}

async function checkBlock(article) {
  const shown = readBlock(article), memory = remembered(), found = await checkHeader(shown), { steps } = found;
  if (!found.header) return { ...found, shown };
  const take = async (part, name, run) => steps.push(...await attempt(part, name, run));
  let salts = null, levels = [], signature = {};
  await take("links", "the blocks beside it", async () => {
    const { before, here, after } = await neighbours(shown);
    if (found.header.count > BigInt(shown.salts.length) && Array.isArray(here?.salt)) salts = here.salt;
    return checkLinks(found, before?.header ?? null, after?.header ?? null);
  });
  await take("data", "its exact bytes", async () => {
    const data = await checkData(found, shown, salts);
    levels = data.levels ?? [];
    return data.steps;
  });
  const { missing = "some" } = article.dataset;
  if (!isErased(found.header, shown.salts) && !isFinal(article))
    steps.push(open("signature", "it is not signed yet: " +
      `${missing} ${missing === "1" ? "block has" : "blocks have"} to follow until it is final`));
  else
    await take("signature", "its receipt", async () => {
      signature = await checkSignature(found, shown, memory);
      return signature.steps;
    });
  return { ...found, shown, levels, signature };
}

// Of what is not final no receipt is offered; what it offers is asked for.
const isFinal = (article) => article.querySelector('a[href$="/receipt"]') !== null;

function verdict(article, { steps, shown, signature }) {
  const failure = firstFailure(steps), line = article.querySelector(".checked");
  if (failure) {
    const again = isFinal(article) ? "" : ". If the chain was reorganised meanwhile, load the page again";
    mark(article, "bad", `✗ WRONG in block ${shown.place}. This does not hold: ${failure.name}${again}`);
    line.after(comparison(failure));
    return;
  }
  const undone = steps.filter(({ holds }) => holds === null);
  const done = PARTS.filter((part) => steps.some((one) => one.part === part) && !undone.some((one) => one.part === part));
  const words = done.map((part) => part === "signature" ? signatureWords(signature) : part);
  const rest = undone.map(({ name, found }) => ` Not checked: ${name}${found ? ` (${found})` : ""}.`);
  const [state, sign] = undone.length ? ["open", ""] : ["good", "✓ "];
  mark(article, state, `${sign}Checked in this browser: ${words.join(", ")}.${rest.join("")}`);
}

const signatureWords = ({ signer, isNew }) => `signature of the ledger’s key ${signer.split("+")[1]}, ` +
  (isNew ? "seen here for the first time" : "which this browser remembers");

// Byte by byte

function showBytes(details, { header, bytes, hash, shown, steps, levels }) {
  const parts = [details.querySelector("summary")];
  if (header) parts.push(...headerTable(bytes, written(header, hash)), ...hashed(bytes, hash));
  if (levels?.length) parts.push(...tree(levels, shown));
  parts.push(make("h3", {}, "Every step"), make("ol", { className: "steps" }, ...steps.map(stepLine)));
  details.replaceChildren(...parts);
}

const code = (text, className = "") => make("code", { className }, text);

function headerTable(bytes, facts) {
  const rows = FIELDS.map(([name, start, stop]) => make("tr", {},
    make("th", { scope: "row" }, make("span", { className: `field ${name}` }, name)),
    make("td", {}, String(start)),
    make("td", {}, code(hex(bytes.slice(start, stop)), "break")),
    make("td", { className: "break" }, facts[name] ?? String(bytes[1])))); // the version is no fact
  const heads = ["field", "from byte", "bytes", "which says"].map((text) => make("th", { scope: "col" }, text));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
  const frame = make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Header, field by field" }, table);
  return [make("h3", {}, "The header: 104 bytes"), frame];
}

function hashed(bytes, hash) {
  const field = (name, text) => make("span", { className: `field ${name}`, title: name }, text);
  const fields = FIELDS.map(([name, start, stop]) => field(name, hex(bytes.slice(start, stop))));
  return [
    make("h3", {}, "What is hashed"),
    make("p", { className: "hashed break" }, field("zero", "00"), ...fields),
    make("p", {}, "SHA-256 of these 105 bytes, as this browser computes it: ", code(hex(hash), "break")),
  ];
}

function tree(levels, { salts }) {
  const level = (hashes, height) => {
    const items = hashes.slice(0, SHOWN_HASHES).map((hash) => make("li", {}, code(hex(hash), "break")));
    if (hashes.length > SHOWN_HASHES) items.push(make("li", { className: "soft" }, `and ${hashes.length - SHOWN_HASHES} more`));
    const title = height === 0 ? "ids of the entries: SHA-256 of a zero byte, the salt and the JSON"
      : `${height === levels.length - 1 ? "data_root" : `level ${height}`}: SHA-256 of 01 and each two of the level before`;
    return [make("p", { className: "soft" }, title), make("ol", { className: "hashes", start: 0 }, ...items)];
  };
  const alone = make("p", {}, salts.length === 0 && levels[0].length === 1 ? "There are none: data_root is the hash of nothing."
    : "There is one, so its id is the data_root.");
  return [make("h3", {}, "The entries"), ...levels.flatMap(level), ...(levels.length === 1 ? [alone] : [])];
}

const SIGNS = new Map([[true, ["✓", "holds"]], [false, ["✗", "does not hold"]], [null, ["–", "open"]]]);

function stepLine(one) {
  const [sign, words] = SIGNS.get(one.holds), line = make("li", {});
  line.dataset.holds = String(one.holds);
  line.append(make("span", { className: "sign", ariaHidden: "true" }, sign), make("span", {}, `${one.name}: ${words}`));
  if (one.holds === false) line.append(comparison(one));
  else if (one.found) line.append(make("p", { className: "soft break" }, one.found));
  return line;
}

const article = document.querySelector("article.block[data-header]"), why = whyNot();
if (article && why !== null) mark(article, "open", `Cannot be checked here: ${why}.`);
else if (article) {
  mark(article, "open", "This browser is checking it…");
  try {
    const found = await checkBlock(article);
    const details = document.getElementById("bytes");
    if (details) showBytes(details, found);
    verdict(article, found);
  } catch (error) {
    mark(article, "open", `Not checked: the script of this page failed (${error}).`);
    throw error;
  }
}
