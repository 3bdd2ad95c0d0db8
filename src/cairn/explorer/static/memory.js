// What this browser remembers of ledgers, for all pages of this address: of each the key that signs,
// and the newest block under a checkpoint that was checked. Of a lab nothing, whose keys and blocks
// come and go.

const PREFIX = "cairn:"; // of what is remembered; the hash of genesis follows
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/; // where ledgers come and go

const { ledger = "", lab } = document.documentElement.dataset;

export const isLab = lab !== undefined;

// By ledger { key, size, hash, at }: the hash is that of the last of so many blocks, and `at` the time
// in ms when that was learned.
function remembered() {
  const found = new Map();
  try {
    for (const name of isLab ? [] : Object.keys(localStorage))
      if (name.startsWith(PREFIX)) {
        const seen = JSON.parse(localStorage.getItem(name));
        if (Number.isSafeInteger(seen.size) && seen.size > 0) found.set(name.slice(PREFIX.length), seen);
      }
  } catch { // it is switched off, or holds what is not ours
  }
  return found;
}

// What check.js holds a page to, as it is now: whoever takes it before asking the node holds nothing
// newer against the answer.
export const memory = () => ({ memory: remembered(), ledger, isLab, isLoopback: LOOPBACK.test(location.hostname) });

export function remember(ledger, seen) {
  try {
    const now = remembered().get(ledger); // another page may have been here meanwhile
    if (!now || now.size < seen.size || (now.size === seen.size && now.key !== seen.key))
      localStorage.setItem(PREFIX + ledger, JSON.stringify({ ...seen, at: Date.now() }));
  } catch { // without storage every visit is the first
  }
}
