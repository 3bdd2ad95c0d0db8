// Follows a page's events. Each `part` is HTML whose elements replace those with the same ids;
// what is kept in a list (by data-key) stays the same element, so that focus and marks stay.

const { live } = document.querySelector("main[data-live]")?.dataset ?? {};
const waiting = new Map(); // parts by id that have come, and are not shown yet

function keep(old, fresh) {
  const known = new Map([...old.querySelectorAll("[data-key]")].map((e) => [e.dataset.key, e]));
  for (const element of fresh.querySelectorAll("[data-key]")) {
    const same = known.get(element.dataset.key);
    if (same) element.replaceWith(same);
    else element.classList.add("new");
  }
}

// What is in a fresh part where an element is in the old one; null if nothing is.
function counterpart(element, old, fresh) {
  const { key } = element.closest("[data-key]")?.dataset ?? {};
  if (key && [...fresh.querySelectorAll("[data-key]")].some((item) => item.dataset.key === key)) return element;
  const from = element.closest("[id]"), way = [];
  for (let at = element; at !== from; at = at.parentElement) way.unshift([...at.parentElement.children].indexOf(at));
  const to = from === old ? fresh : fresh.querySelector(`#${CSS.escape(from.id)}`);
  const found = way.reduce((at, index) => at?.children[index], to);
  return found?.tagName === element.tagName ? found : null;
}

// Shows the parts that have come; one in which somebody stands waits, if what they stand in would go.
function show() {
  const shown = [];
  for (const [id, fresh] of waiting) {
    const old = document.getElementById(id);
    const focused = old?.contains(document.activeElement) ? document.activeElement : null;
    const stays = focused && counterpart(focused, old, fresh);
    if (focused && !stays) continue;
    waiting.delete(id);
    if (!old) continue;
    for (const open of old.querySelectorAll("details[open]")) { // one who reads numbers is not interrupted
      const same = open.id && fresh.querySelector(`#${CSS.escape(open.id)}`);
      if (same) same.open = true;
    }
    keep(old, fresh);
    old.replaceWith(fresh);
    stays?.focus({ preventScroll: true });
    shown.push(fresh);
  }
  if (shown.length) document.dispatchEvent(new CustomEvent("cairn:shown", { detail: shown }));
}

function take(text) {
  const parsed = new DOMParser().parseFromString(text, "text/html");
  for (const fresh of parsed.body.children) waiting.set(fresh.id, fresh);
  show();
}

// A browser has six connections to a node for all its pages together, and each that is followed takes
// one: only what can be seen is. The first event of each has all that is there.
let source = null;

function follow(wanted) {
  if (Boolean(source) === wanted) return;
  source?.close();
  source = wanted ? new EventSource(live) : null;
  source?.addEventListener("part", (event) => take(JSON.parse(event.data)));
  source?.addEventListener("open", () => document.documentElement.classList.remove("offline"));
  source?.addEventListener("error", () => document.documentElement.classList.add("offline"));
}

function pauseButton() {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Pause", ariaPressed: "false" });
  const line = Object.assign(document.createElement("p"), { className: "live" });
  const words = Object.assign(document.createElement("span"), { className: "soft" });
  button.addEventListener("click", () => {
    const paused = button.ariaPressed !== "true";
    button.ariaPressed = String(paused);
    words.textContent = paused ? " Paused: what comes now is shown once you go on." : "";
    update();
  });
  line.append(button, words);
  document.querySelector("main h1").after(line);
  return button;
}

let update = () => {};
if (live) {
  const button = pauseButton();
  update = () => follow(document.visibilityState === "visible" && button.ariaPressed !== "true");
  update();
  document.addEventListener("visibilitychange", update);
  document.addEventListener("focusout", () => setTimeout(show)); // where the focus goes is known then
}
