// Blocks in a page: how they are read from it, and how what was found out is put there.

import { seen } from "/explorer/receipt.js";

// Makes an element; characters in texts that reorder or hide others show as escapes.
export function make(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children.map((child) => typeof child === "string" ? seen(child) : child));
  return made;
}

// What a block's article shows, as check.js takes it.
export function readBlock(article) {
  const { header, hash, index, salts } = article.dataset, data = article.querySelector('[data-fact="data"]');
  const facts = [["index", index], ["hash", hash]];
  for (const fact of article.querySelectorAll("[data-fact]"))
    if (fact !== data) facts.push([fact.dataset.fact, fact.textContent]);
  return {
    place: BigInt(article.id.slice("block-".length)),
    header,
    salts: salts.split(" ").filter(Boolean),
    facts: [...new Map(facts.map((fact) => [fact.join(" "), fact])).values()], // each once
    text: (data?.querySelector("bdi") ?? data)?.textContent,
    whole: data?.dataset.whole === "true",
  };
}

// Says what was found: `state` is "good", "bad" or "open".
export function mark(article, state, ...words) {
  const line = article.querySelector(".checked");
  line.dataset.checked = state;
  line.replaceChildren(...words.map((word) => typeof word === "string" ? seen(word) : word));
  article.dataset.state = state;
}

// Expected beside found.
export function comparison({ expected, found }) {
  const side = (term, text) => make("div", {}, make("dt", {}, term), make("dd", {}, make("code", {}, text)));
  return make("dl", { className: "comparison" }, side("expected", expected), side("found", found));
}
