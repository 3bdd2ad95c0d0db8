// Has the block of a page checked in this browser, and shows what was found, byte by byte. What the
// check takes of the node is asked for here.

import { comparison, make, mark, readBlock } from "/explorer/article.js";
import { firstFailure, whyNot, written } from "/explorer/check.js";
import { isLab, memory, remember } from "/explorer/memory.js";
import { hex } from "/explorer/receipt.js";

const PATIENCE = 60_000; // ms that an answer may take: a receipt may have to be signed first
const FACTS = ["index", "timestamp", "previous_hash", "hash", "kind", "count", "size", "data_root", "bits", "nonce", "header"];
const WORDS = { heading: "h1", kind: '[data-words="kind"]' };
const FIELDS = [
  ["version", 0, 2], ["kind", 2, 4], ["bits", 4, 8], ["index", 8, 16], ["previous_hash", 16, 48],
  ["timestamp", 48, 56], ["count", 56, 60], ["size", 60, 64], ["data_root", 64, 96], ["nonce", 96, 104],
];
const PARTS = ["hash", "header", "difficulty", "data", "links", "signature"];

// Asking the node

async function get(path) {
  const signal = AbortSignal.timeout(PATIENCE);
  try {
    const answer = await fetch(path, { headers: { Accept: "application/json" }, cache: "no-store", signal });
    if (answer.ok) return { parts: await partsOf(answer.body.getReader()) };
    const { detail } = await answer.json().catch(() => ({}));
    return { problem: { status: answer.status, detail: `${detail ?? `the node answered ${answer.status}`}` } };
  } catch (error) {
    return { problem: { status: 0, detail: `the node did not answer (${error.message})` } };
  }
}

async function partsOf(reader) { // as they come: to put large ones together takes time
  const parts = [];
  for (let next; !(next = await reader.read()).done;) parts.push(next.value);
  return parts;
}

// All of it

function check(shown) {
  const thread = new Worker("/explorer/block_check.js", { type: "module" });
  const page = { ...memory(), path: location.pathname };
  return new Promise((resolve, reject) => {
    thread.onerror = ({ message }) => reject(new Error(message || "its thread did not start"));
    thread.onmessage = async ({ data: { ask, id, found, failed } }) => {
      if (ask) {
        const { parts = [], problem } = await get(ask);
        thread.postMessage({ id, parts, problem }, parts.map(({ buffer }) => buffer));
      } else if (found) resolve(found);
      else reject(new Error(failed));
    };
    thread.postMessage({ shown, page });
  }).finally(() => thread.terminate());
}

function verdict(article, shown, { steps, signature }) {
  const failure = firstFailure(steps);
  if (failure) {
    const again = shown.waits ? ". If the chain was reorganised meanwhile, load the page again" : "";
    const line = mark(article, "bad", failure.part === "chain"
      ? `✗ This chain is not the one that was signed: its root is another. Block ${shown.place} agrees with itself; whether it was changed cannot be told from here`
      : `✗ WRONG in block ${shown.place}. This does not hold: ${failure.name}${again}`);
    line.after(comparison(failure));
    return;
  }
  const undone = steps.filter(({ holds }) => holds === null);
  const done = PARTS.filter((part) => steps.some((one) => one.part === part) && !undone.some((one) => one.part === part));
  const words = done.map((part) => part === "signature" ? signatureWords(signature)
    : part === "data" && !shown.whole ? "data, of which this is the beginning" : part);
  const rest = undone.map(({ name, found }) => ` Not checked: ${name}${found ? ` (${found})` : ""}.`);
  const [state, sign] = undone.length ? ["open", ""] : ["good", "✓ "];
  mark(article, state, `${sign}Checked in this browser: ${words.join(", ")}.${rest.join("")}`);
}

function signatureWords({ signer, isNew, isOther }) {
  if (isLab) return "signature by the lab’s own key, which is not remembered";
  const key = `signature of the ledger’s key ${signer.split("+")[1]}`;
  if (!isNew) return `${key}, which this browser remembers`;
  return `${key}, seen here for the first time${isOther ? ": this is another ledger than before at this address" : ""}`;
}

// Byte by byte

function showBytes(details, { header, bytes, hash, steps, levels }) {
  const parts = [details.querySelector("summary")];
  if (header) parts.push(...headerTable(bytes, written(header, hash)), ...hashed(bytes, hash));
  if (levels?.length) parts.push(...tree(levels, header));
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

function tree(levels, { count }) {
  const level = ({ hashes, more }, height) => {
    const items = hashes.map((hash) => make("li", {}, code(hash, "break")));
    if (more) items.push(make("li", { className: "soft" }, `and ${more} more`));
    const title = height === 0 ? "ids of the entries: SHA-256 of a zero byte, the salt and the JSON"
      : `${height === levels.length - 1 ? "data_root" : `level ${height}`}: SHA-256 of 01 and each two of the level before`;
    return [make("p", { className: "soft" }, title), make("ol", { className: "hashes", start: 0 }, ...items)];
  };
  const alone = make("p", {}, count === 0n ? "There are none: data_root is the hash of nothing."
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

const article = document.querySelector("article.block.whole"), why = whyNot();
if (article && why !== null) mark(article, "open", `Cannot be checked here: ${why}.`);
else if (article) {
  mark(article, "open", "This browser is checking it…");
  try {
    const salts = article.querySelector('[data-words="salts"]')?.textContent ?? "";
    const shown = { ...readBlock(article, FACTS, WORDS), saltsText: salts };
    const found = await check(shown), details = document.getElementById("bytes");
    if (details) showBytes(details, found);
    verdict(article, shown, found);
    const { ledger: signed, learned } = found.signature ?? {};
    if (learned && !firstFailure(found.steps)) remember(signed, learned);
  } catch (error) {
    mark(article, "open", `Not checked: the script of this page failed (${error}).`);
    throw error;
  }
}
