// Blocks in a page: how they are read from it, and how what was found out is put there.

import { seen } from "/explorer/receipt.js";

const CUT = " … and more";

// Makes an element; characters in texts that reorder or hide others show as escapes.
export function make(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children.map((child) => typeof child === "string" ? seen(child) : child));
  return made;
}

// What a block's article shows, as check.js takes it: with these facts and words at least, the words
// by where they stand.
export function readBlock(article, names, words) {
  const { header, hash = "", index = "", salts = "", before, after, missing } = article.dataset;
  const data = article.querySelector("pre.data"), whole = data?.dataset.whole === "true";
  const marked = [...article.querySelectorAll("[data-fact]")].filter((fact) => fact !== data);
  const facts = marked.map((fact) => [fact.dataset.fact, fact.textContent]);
  const absent = names.filter((name) => !facts.some(([one]) => one === name)).map((name) => [name, "nothing"]);
  const said = Object.entries(words).map(([name, where]) => [name, article.querySelector(where)?.textContent ?? ""]);
  const text = data ? textOf(data, whole) : "";
  return {
    place: BigInt(article.id.slice("block-".length)),
    header: header ?? "",
    salts: salts.split(" ").filter(Boolean),
    before: before ?? null,
    after: after ?? null,
    facts: [["index", index], ["hash", hash], ...facts, ...absent],
    words: said,
    waits: missing !== undefined,
    missing,
    text,
    whole,
  };
}

// The text of data, all that is seen but the sign that it is cut: which is there if it is, and says so.
function textOf(data, whole) {
  const cuts = [...data.querySelectorAll(".cut")];
  const isSaid = !whole && cuts.length === 1 && cuts[0] === data.lastChild && cuts[0].textContent === CUT;
  if (isSaid) return data.textContent.slice(0, -CUT.length); // to write it anew takes a while, if it is long
  for (const cut of cuts) cut.remove();
  const text = data.textContent;
  if (!whole) data.append(make("span", { className: "cut" }, CUT));
  return text;
}

// Says what was found: `state` is "good", "bad" or "open".
export function mark(article, state, ...words) {
  let line = article.querySelector(".checked");
  if (!line) article.append(line = make("p", { className: "checked" }));
  line.dataset.checked = state;
  line.replaceChildren(...words.map((word) => typeof word === "string" ? seen(word) : word));
  article.dataset.state = state;
  return line;
}

// Expected beside found.
export function comparison({ expected, found }) {
  const side = (term, text) => make("div", {}, make("dt", {}, term), make("dd", {}, make("code", {}, text)));
  return make("dl", { className: "comparison" }, side("expected", expected), side("found", found));
}
