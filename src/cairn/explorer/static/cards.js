// Checks every block of a page of many, as it comes: that it is what its header says, and follows
// the one before it. Whether it is in the ledger that was signed, its own page checks.

import { comparison, make, mark, readBlock } from "/explorer/article.js";
import {
  checkEntries, checkHeader, checkLinks, entriesShown, firstFailure, isErased, step, whyNot,
} from "/explorer/check.js";

const checks = new WeakMap(); // article to a promise of what is found of it alone

async function check(article) {
  const { state } = article.dataset; // what the server says of it, if it does
  const shown = readBlock(article), found = await checkHeader(shown), { header } = found;
  const withData = Boolean(header) && shown.whole && !isErased(header, shown.salts);
  if (withData) found.steps.push(...await checkData(header, shown));
  return { ...found, article, state, withData, place: shown.place, digits: shown.header };
}

async function checkData(header, { salts, text }) {
  try {
    return (await checkEntries(header, salts, entriesShown(header, text))).steps;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return [step("data", "the data shown is JSON", "JSON", text.slice(0, 80), false)];
  }
}

function show({ article, state, withData }, failure) {
  article.querySelector(".comparison.ours")?.remove();
  const line = article.querySelector(".checked");
  if (failure) line.setAttribute("role", "alert");
  else line.removeAttribute("role"); // it is not to be read out for every block that comes
  if (!failure) {
    const [words, more] = withData ? ["✓ checked", "hash, data and links"] : ["✓ header checked", "not its data"];
    mark(article, "good", words, make("span", { className: "hidden" }, ` by this browser: ${more}`));
    article.dataset.state = state ?? "good";
    return;
  }
  mark(article, "bad", `✗ WRONG. This does not hold: ${failure.name}`);
  const beside = comparison(failure);
  beside.classList.add("ours");
  line.after(beside);
}

async function checkAll() {
  const articles = [...document.querySelectorAll("article.block[data-header]")];
  for (const article of articles)
    if (!checks.has(article)) checks.set(article, check(article));
  const found = await Promise.all(articles.map((article) => checks.get(article)));
  const at = new Map(found.map((one) => [one.place, one]));
  for (const one of found) {
    const [before, after] = [at.get(one.place - 1n), at.get(one.place + 1n)];
    const links = one.header ? await checkLinks(one, before?.digits ?? null, after?.digits ?? null) : [];
    const failure = firstFailure([...one.steps, ...links]);
    const shown = `${failure?.name} ${failure?.expected} ${failure?.found}`;
    if (one.shown !== shown) show(one, failure);
    one.shown = shown;
  }
}

const why = whyNot();
if (why === null) {
  document.addEventListener("cairn:shown", checkAll);
  checkAll();
} else {
  const line = make("p", { className: "soft", role: "status" }, `This browser cannot check these blocks: ${why}.`);
  document.querySelector("main").prepend(line);
}
