// Follows a page's events. Each `part` is HTML whose elements replace those with the same ids;
// what is kept in a list (by data-key) stays the same element, so that focus and marks stay.

const { live } = document.querySelector("main[data-live]")?.dataset ?? {};

function keep(old, fresh) {
  const known = new Map([...old.querySelectorAll("[data-key]")].map((e) => [e.dataset.key, e]));
  for (const element of fresh.querySelectorAll("[data-key]")) {
    const same = known.get(element.dataset.key);
    if (same) element.replaceWith(same);
    else element.classList.add("new");
  }
}

function show(text) {
  const parsed = new DOMParser().parseFromString(text, "text/html");
  const shown = [];
  for (const fresh of [...parsed.body.children]) {
    const old = document.getElementById(fresh.id);
    if (!old) continue;
    // One who reads numbers, or stands in them, is not interrupted.
    for (const open of old.querySelectorAll("details[open]")) {
      const same = open.id && fresh.querySelector(`#${CSS.escape(open.id)}`);
      if (same) same.open = true;
    }
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    keep(old, fresh);
    old.replaceWith(fresh);
    if (focused?.isConnected) focused.focus({ preventScroll: true });
    shown.push(fresh);
  }
  document.dispatchEvent(new CustomEvent("cairn:shown", { detail: shown }));
}

if (live) {
  const source = new EventSource(live);
  source.addEventListener("part", (event) => show(JSON.parse(event.data)));
  source.addEventListener("open", () => document.documentElement.classList.remove("offline"));
  source.addEventListener("error", () => document.documentElement.classList.add("offline"));
}
