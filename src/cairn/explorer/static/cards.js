// Checks every block of a page of many, as it comes: that it is what its header says, and follows
// the one before it. Whether it is in the ledger that was signed, its own page checks.

import { comparison, make, mark, readBlock } from "/explorer/article.js";
import {
  checkEntries, checkErased, checkHeader, checkLinks, checkPlaces, checkWords, entriesShown, firstFailure, isErased, step, whyNot,
} from "/explorer/check.js";

const FACTS = ["index", "timestamp", "hash", "previous_hash"];
const WORDS = { title: "h3", when: ".when" };

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
  if (isErased(header, salts)) return { steps: [checkErased(header, { text })], undone: "its data was erased" };
  if (!whole) return { steps: [], undone: "data not: this is its beginning" };
  if (BigInt(salts.length) !== header.count) return { steps: [], undone: "data not" };
  try {
    return await checkEntries(header, salts, entriesShown(header, text));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return { steps: [step("data", "the data shown is JSON", "JSON", text.slice(0, 80), false)] };
  }
}

function show({ article, state, undone }, failure, links) {
  article.querySelector(".comparison.ours")?.remove();
  const done = ["hash", ...undone ? [] : ["data"], ...links].join(", ");
  const more = make("span", { className: "hidden" }, ` by this browser: ${done}`);
  const line = failure ? mark(article, "bad", `✗ WRONG. This does not hold: ${failure.name}`)
    : undone ? mark(article, "open", `header checked, ${undone}`, more)
    : mark(article, "good", "✓ checked", more);
  if (failure) {
    const beside = comparison(failure);
    beside.classList.add("ours");
    line.after(beside);
    line.setAttribute("role", "alert");
    return;
  }
  line.removeAttribute("role"); // it is not to be read out for every block that comes
  if (state) article.dataset.state = state;
}

// The places of the blocks of a list, and whether they go up.
function ordered(list) {
  const places = [...list.querySelectorAll("article.block[id]")].map(({ id }) => id.slice("block-".length));
  return checkPlaces(places, !list.reversed);
}

async function checkAll() {
  const articles = [...document.querySelectorAll("article.block.card")]
    .filter(({ dataset }) => "header" in dataset || dataset.state !== "bad"); // what cannot be read says so
  const gaps = new Map([...document.querySelectorAll("ol.chain:not(.found)")].flatMap(ordered));
  for (const article of articles)
    if (!checks.has(article)) checks.set(article, check(article));
  const found = await Promise.all(articles.map((article) => checks.get(article)));
  const at = new Map(found.map((one) => [one.place, one]));
  for (const one of found) {
    const [before, after] = [-1n, 1n].map((by) => (one.header && at.get(one.place + by)) ?? null);
    const steps = one.header ? await checkLinks(one, before?.digits ?? null, after?.digits ?? null) : [];
    const gap = gaps.get(one.article.id.slice("block-".length));
    const failure = firstFailure([...one.steps, ...steps, ...gap ? [gap] : []]);
    const links = before && after ? ["links"] : [before, after].filter(Boolean).map(({ place }) => `link to block ${place}`);
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
