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

// A browser has six connections to a node for all its pages together, and a stream takes one for good.
// So of all pages that can be seen one has the stream, by a lock, and tells the others; if it goes, the
// next has the lock. The first event of a stream has all that there is: it is opened again for a page
// that comes. Without locks, which browsers have on this machine and by https only, each has its own.
let leave = null; // from what is followed, while it is

function follow(wanted) {
  if (Boolean(leave) === wanted) return;
  leave?.abort();
  leave = null;
  if (!wanted) return;
  leave = new AbortController();
  const { signal } = leave;
  if (!navigator.locks) {
    const source = open(heard);
    signal.addEventListener("abort", () => source.close());
    return;
  }
  const others = new BroadcastChannel(`cairn:${live}`);
  signal.addEventListener("abort", () => others.close());
  others.onmessage = ({ data }) => heard(data);
  others.postMessage({ joined: true });
  navigator.locks.request(`cairn:${live}`, { signal }, () => lead(signal, others)).catch((error) => {
    if (!signal.aborted) throw error;
  });
}

// Has the stream for all, until it leaves: the promise that it returns is the lock.
function lead(signal, others) {
  const tell = (said) => {
    heard(said);
    others.postMessage(said);
  };
  let source = open(tell);
  others.onmessage = ({ data }) => {
    if (!data.joined) return;
    source.close();
    source = open(tell);
  };
  return new Promise((resolve) => signal.addEventListener("abort", () => {
    source.close();
    resolve();
  }));
}

function open(say) {
  const source = new EventSource(live);
  source.addEventListener("part", ({ data }) => say({ html: JSON.parse(data) }));
  source.addEventListener("open", () => say({ online: true }));
  source.addEventListener("error", () => say({ online: false }));
  return source;
}

function heard({ html, online }) {
  if (html !== undefined) take(html);
  if (online !== undefined) document.documentElement.classList.toggle("offline", !online);
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
