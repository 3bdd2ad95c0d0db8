// Checks every block of a page of many, as it comes: that it agrees with itself, follows the one before
// it, and is not another one than this browser remembers. Whether it is in the ledger that was signed,
// its own page checks.

import { comparison, make, mark, readBlock } from "/explorer/article.js";
import {
  checkEntries, checkErased, checkHeader, checkLinks, checkPlaces, checkRemembered, checkWords, entriesShown, firstFailure,
  isErased, notShorter, step, whyNot,
} from "/explorer/check.js";
import { memory } from "/explorer/memory.js";

const FACTS = ["index", "timestamp", "hash", "previous_hash"];
const WORDS = { title: "h3", when: ".when" };
const ORDERED = ["/", "/validate"]; // pages on which blocks follow one another without a gap
const SETTLED = 1000; // ms: the first page may be that much older than when it was asked for

// What this browser remembered when the page was asked for; its end is held to what is older than that.
const known = memory(), asked = Date.now() - performance.now();

const checks = new WeakMap(); // article to a promise of what is found of it alone

async function check(article) {
  const { state } = article.dataset, about = { article, state }; // what the server says of it, if it does
  try {
    const shown = readBlock(article, FACTS, WORDS), { steps, header, hash } = await checkHeader(shown);
    if (!header) return { ...about, steps };
    steps.push(...checkWords(header, shown));
    const data = await checkData(header, shown);
    steps.push(...data.steps);
    return { ...about, steps, header, hash, undone: data.undone, place: shown.place, digits: shown.header };
  } catch (error) {
    return { ...about, steps: [step("header", "the page shows a block", "a block", error.message, false)] };
  }
}

async function checkData(header, { salts, text, whole }) {
  if (isErased(header, salts)) return { steps: [checkErased(header, { text })], undone: "its data was erased, says the node" };
  if (!whole) return { steps: [], undone: "its data was not checked: this is the beginning" };
  if (BigInt(salts.length) !== header.count) return { steps: [], undone: "its data was not checked" };
  try {
    return await checkEntries(header, salts, entriesShown(header, text));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return { steps: [step("data", "the data shown is JSON", "JSON", text.slice(0, 80), false)] };
  }
}

function show({ article, state, undone }, failure, links) {
  article.querySelector(".comparison.ours")?.remove();
  const done = ["hash", "header", ...undone ? [] : ["data"], ...links].join(", ");
  const more = make("span", { className: "hidden" }, ` as this browser finds: ${done}`);
  const line = failure ? mark(article, "bad", `✗ WRONG. This does not hold: ${failure.name}`)
    : undone ? mark(article, "open", `header agrees with itself, ${undone}`, more)
    : mark(article, "good", "✓ agrees with itself", more);
  if (failure) {
    const beside = comparison(failure);
    beside.classList.add("ours");
    line.after(beside);
    if (state !== "bad") line.setAttribute("role", "alert"); // else it is said already
    return;
  }
  line.removeAttribute("role"); // it is not to be read out for every block that comes
  if (state) article.dataset.state = state;
}

// That the first page ends no earlier than the chain that was shown before; `article` is its first.
function ending({ article, place }) {
  const seen = known.memory.get(known.ledger);
  const isEnd = location.pathname === "/" && !new URLSearchParams(location.search).has("start") &&
    article === document.querySelector("ol.chain article.block");
  return isEnd && seen && (seen.at ?? 0) < asked - SETTLED ? [notShorter(seen, place + 1n)] : [];
}

// The places of the blocks of a list, and whether they go up.
function ordered(list) {
  const places = [...list.querySelectorAll("article.block[id]")].map(({ id }) => id.slice("block-".length));
  return checkPlaces(places, !list.reversed);
}

async function checkAll() {
  const articles = [...document.querySelectorAll("article.block.card:not(.fork *)")]
    .filter(({ dataset }) => "header" in dataset || dataset.state !== "bad"); // what cannot be read says so
  const lists = ORDERED.includes(location.pathname) ? [...document.querySelectorAll("ol.chain")] : [];
  for (const article of articles)
    if (!checks.has(article)) checks.set(article, check(article));
  const found = await Promise.all(articles.map((article) => checks.get(article)));
  const at = new Map(found.map((one) => [one.place, one]));
  const gaps = new Map(lists.flatMap(ordered));
  for (const one of found) {
    const [previous, next] = [-1n, 1n].map((by) => (one.header && at.get(one.place + by)) ?? null);
    const steps = one.header ? await checkLinks(one, previous?.digits ?? null, next?.digits ?? null) : [];
    if (one.header) steps.push(...checkRemembered(known, [[one.place, one.hash]]), ...ending(one));
    const gap = gaps.get(one.article.id.slice("block-".length));
    const failure = firstFailure([...one.steps, ...steps, ...gap ? [gap] : []]);
    const links = previous && next ? ["links"] : [previous, next].filter(Boolean).map(({ place }) => `link to block ${place}`);
    const shown = `${failure?.name} ${failure?.expected} ${failure?.found} ${links}`;
    if (one.shown !== shown) show(one, failure, links);
    one.shown = shown;
  }
}

// One run after the other, so that what is shown last is what is newest.
let running = false, again = false;
async function checkInTurn() {
  again = true;
  if (running) return;
  running = true;
  try {
    while (again) {
      again = false;
      await checkAll();
    }
  } finally {
    running = false;
  }
}

// Data that is longer than there is room for says so, however wide the page is.
const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => showClipped(target)));
const watched = new WeakSet();

function showClipped(data) {
  const isClipped = data.scrollHeight > data.clientHeight + 1, { href } = data.closest("article").querySelector("h3 a") ?? {};
  const next = data.nextElementSibling, sign = next?.classList.contains("more") ? next : null;
  data.classList.toggle("clipped", isClipped);
  if (!isClipped) sign?.remove();
  else if (!sign) data.after(make("p", { className: "link soft more" }, "… ", make("a", { href }, "all of its data")));
}

function watchSizes() {
  for (const data of document.querySelectorAll("article.card pre.data"))
    if (!watched.has(data)) {
      watched.add(data);
      sizes.observe(data);
    }
}

function take() {
  watchSizes();
  if (why === null) checkInTurn();
}

const why = whyNot();
if (why !== null) {
  const line = make("p", { className: "soft", role: "status" }, `This browser cannot check these blocks: ${why}.`);
  document.querySelector("main").prepend(line);
}
document.addEventListener("cairn:shown", take);
take();
