// Mining by hand, and the chances of an attacker as sliders move. All else in the lab is forms.
//
// The hash is computed here by a SHA-256 of its own: WebCrypto answers each single hash by way of
// another thread, and makes one while this makes ten. What is found is computed by it again, where
// there is one.

const K = new Int32Array(64);
const FIRST = new Int32Array(8);

// FIPS 180-4, 4.2.2 and 5.3.3: the first 32 bits of the fractions of roots of the first primes.
function fill() {
  const primes = [];
  for (let n = 2; primes.length < 64; n += 1) if (primes.every((p) => n % p)) primes.push(n);
  const bits = (root) => Math.floor((root - Math.floor(root)) * 2 ** 32) | 0;
  primes.forEach((prime, i) => {
    K[i] = bits(Math.cbrt(prime));
    if (i < 8) FIRST[i] = bits(Math.sqrt(prime));
  });
}
fill();

const W = new Int32Array(64);

// Compresses the 16 words of W into `state`: FIPS 180-4, 6.2.2.
function compress(state) {
  for (let i = 16; i < 64; i += 1) {
    const x = W[i - 15], y = W[i - 2];
    const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
    const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
    W[i] = (W[i - 16] + s0 + W[i - 7] + s1) | 0;
  }
  let a = state[0], b = state[1], c = state[2], d = state[3];
  let e = state[4], f = state[5], g = state[6], h = state[7];
  for (let i = 0; i < 64; i += 1) {
    const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
    const t1 = (h + s1 + ((e & f) ^ (~e & g)) + K[i] + W[i]) | 0;
    const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g; g = f; f = e; e = (d + t1) | 0;
    d = c; c = b; b = a; a = (t1 + t2) | 0;
  }
  state[0] += a; state[1] += b; state[2] += c; state[3] += d;
  state[4] += e; state[5] += f; state[6] += g; state[7] += h;
}

function load(view, at) {
  for (let i = 0; i < 16; i += 1) W[i] = view.getInt32(at + 4 * i);
}

// The message, a one, zeros, and its length in bits: FIPS 180-4, 5.1.1.
function padded(message) {
  const bytes = new Uint8Array(((message.length + 8) >> 6) * 64 + 64);
  bytes.set(message);
  bytes[message.length] = 0x80;
  new DataView(bytes.buffer).setUint32(bytes.length - 4, message.length * 8);
  return new DataView(bytes.buffer);
}

function bytesOf(state) {
  const view = new DataView(new ArrayBuffer(32));
  state.forEach((word, i) => view.setInt32(4 * i, word));
  return new Uint8Array(view.buffer);
}

export function sha256(message) {
  const view = padded(message), state = FIRST.slice();
  for (let at = 0; at < view.byteLength; at += 64) {
    load(view, at);
    compress(state);
  }
  return bytesOf(state);
}

export const hex = (bytes) => [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
const unhex = (text) => Uint8Array.from(text.match(/../g), (two) => parseInt(two, 16));

// A hash is the SHA-256 of a zero byte and 104 bytes, of which the nonce is the last 8: it lies in
// the second half of what is hashed, and the first half is hashed once for all tries.
export class Search {
  constructor(header, bits) {
    this.header = header;
    this.target = targetOf(bits);
    this.nonce = -1;
    this.view = padded(Uint8Array.of(0, ...header));
    load(this.view, 0);
    this.middle = FIRST.slice();
    compress(this.middle);
    this.state = new Int32Array(8);
  }

  // Takes the next nonce; whether the hash, which is in `state` then, is good enough.
  next() {
    this.nonce += 1;
    this.view.setUint32(97, Math.floor(this.nonce / 2 ** 32));
    this.view.setUint32(101, this.nonce >>> 0);
    load(this.view, 64);
    this.state.set(this.middle);
    compress(this.state);
    return this.isGood();
  }

  isGood() {
    for (let i = 0; i < 8; i += 1) {
      const found = this.state[i] >>> 0, most = this.target[i];
      if (found !== most) return found < most;
    }
    return true;
  }

  get zeros() {
    const word = this.state.findIndex((one) => one !== 0);
    return word < 0 ? 256 : 32 * word + Math.clz32(this.state[word]);
  }

  get hash() {
    return bytesOf(this.state);
  }

  get mined() {
    const header = this.header.slice();
    header.set(new Uint8Array(this.view.buffer, 97, 8), 96);
    return header;
  }
}

// The target as eight words, as compact bits have it: docs/format.md.
export function targetOf(bits) {
  const bytes = new Uint8Array(32), at = 32 - (bits >>> 24);
  for (let i = 0; i < 3; i += 1) if (at + i >= 0 && at + i < 32) bytes[at + i] = bits >>> (16 - 8 * i);
  const view = new DataView(bytes.buffer);
  return Array.from({ length: 8 }, (_, i) => view.getUint32(4 * i));
}

// A batch with one entry, salt and canonical JSON, of which data_root is the leaf hash.
export function headerOf({ index, previous, timestamp, bits, salt, text }) {
  const json = new TextEncoder().encode(JSON.stringify(text));
  const entry = Uint8Array.of(...salt, ...json);
  const header = new Uint8Array(104), view = new DataView(header.buffer);
  view.setUint16(0, 1);
  view.setUint16(2, 1);
  view.setUint32(4, bits);
  view.setBigUint64(8, BigInt(index));
  header.set(unhex(previous), 16);
  view.setBigUint64(48, BigInt(timestamp));
  view.setUint32(56, 1);
  view.setUint32(60, entry.length);
  header.set(sha256(Uint8Array.of(0, ...entry)), 64);
  return header;
}

const BATCH_MS = 12; // of work at once: what else the page has to do does not wait longer
const SHOWN_MS = 100; // between two times that numbers change

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const element = (id) => document.getElementById(id);
const put = (id, text) => { element(id).textContent = text; };

class Bench {
  constructor(section) {
    const { index, previous, timestamp, easiest, bits } = section.dataset;
    Object.assign(this, { index, previous, timestamp, easiest: Number(easiest) });
    this.bits = bits.split(" ").map((text) => parseInt(text, 16));
    this.salt = crypto.getRandomValues(new Uint8Array(16));
    this.running = false;
    section.querySelector(".scriptless").remove();
    section.querySelector(".bench").hidden = false;
    element("difficulty").addEventListener("input", () => this.begin());
    element("mine-data").addEventListener("input", () => this.begin());
    element("one").addEventListener("click", () => this.step());
    element("many").addEventListener("click", () => this.toggle());
    this.begin();
  }

  get wanted() {
    return Number(element("difficulty").value);
  }

  // What is to be mined is another block now.
  begin() {
    const before = this.found;
    this.stop();
    this.found = null;
    this.tries = this.spent = 0;
    this.best = -1;
    const bits = this.bits[this.wanted - this.easiest];
    const text = element("mine-data").value.toWellFormed?.() ?? element("mine-data").value;
    this.search = new Search(headerOf({ ...this, bits, text }), bits);
    const odds = number.format(2 ** this.wanted);
    put("bits", this.wanted);
    put("odds", odds);
    put("expected", odds);
    put("hash", "");
    showBits(element("target"), this.search.target[0], this.wanted, true);
    element("one").disabled = element("many").disabled = false;
    if (before) this.tryAgain(before);
    else {
      say("", "open");
      element("found").hidden = true;
    }
    this.show();
  }

  // The nonce that was good for the block before is not for this one.
  tryAgain({ nonce }) {
    this.search.nonce = nonce - 1;
    const still = this.search.next();
    this.showFound();
    this.search.nonce = -1;
    const zeros = `Its hash is another one, with ${this.search.zeros} leading zero bits`;
    element("found").dataset.state = still ? "good" : "bad";
    if (still) say(`${zeros}: by chance, the same nonce is good enough again.`, "good");
    else say(`${zeros}: ${this.wanted} are needed. It has to be mined anew.`, "bad");
  }

  step() {
    const began = performance.now();
    const isGood = this.search.next();
    this.count(1, performance.now() - began, this.search.zeros);
    if (isGood) this.find();
    else say(`Nonce ${number.format(this.search.nonce)}: ${this.search.zeros} leading zero bits, ${this.wanted} are needed.`, "open");
    this.show();
  }

  toggle() {
    if (this.running) return this.stop();
    this.running = true;
    element("found").hidden = true;
    element("many").setAttribute("aria-pressed", "true");
    put("many", "Stop");
    say("Trying one nonce after another …", "open");
    this.shown = performance.now();
    this.batch();
  }

  stop() {
    this.running = false;
    element("many").setAttribute("aria-pressed", "false");
    put("many", "Keep trying");
  }

  batch() {
    if (!this.running) return;
    const began = performance.now();
    let tries = 0, isGood = false, best = -1;
    while (!isGood && (tries % 64 || performance.now() - began < BATCH_MS)) {
      isGood = this.search.next();
      tries += 1;
      best = Math.max(best, this.search.zeros);
    }
    this.count(tries, performance.now() - began, best);
    if (isGood) {
      this.stop();
      this.find();
    }
    if (isGood || performance.now() - this.shown > SHOWN_MS) {
      this.shown = performance.now();
      this.show();
    }
    if (!isGood) setTimeout(() => this.batch());
  }

  count(tries, spent, zeros) {
    this.tries += tries;
    this.spent += spent;
    this.best = Math.max(this.best, zeros);
  }

  async find() {
    const search = this.search;
    this.found = { nonce: search.nonce };
    element("one").disabled = element("many").disabled = true;
    this.showFound();
    element("found").dataset.state = "good";
    const luck = this.tries / 2 ** this.wanted;
    const how = luck < 0.5 ? "You were lucky" : luck > 2 ? "You had bad luck" : "About as expected";
    say(
      `Found after ${number.format(this.tries)} ${this.tries === 1 ? "try" : "tries"}. ${how}. ` +
        "Whoever has this block checks it with one hash. Now change one letter of what it records.",
      "good",
    );
    const message = Uint8Array.of(0, ...search.mined), hash = hex(search.hash);
    const again = await crypto.subtle?.digest("SHA-256", message);
    if (again && hex(new Uint8Array(again)) !== hash) say("This browser computes another hash.", "bad");
  }

  showFound() {
    const { search } = this, header = hex(search.mined);
    const facts = { index: this.index, previous: this.previous, header, nonce: header.slice(-16), hash: hex(search.hash) };
    for (const [name, text] of Object.entries(facts)) {
      document.querySelector(`[data-mined="${name}"]`).textContent = text;
    }
    element("found").hidden = false;
  }

  show() {
    put("tries", number.format(this.tries));
    put("best", this.best < 0 ? "–" : this.best);
    put("time", `${(this.spent / 1000).toFixed(1)} s`);
    put("speed", this.spent > 200 ? `${number.format((this.tries / this.spent) * 1000)} hashes/s` : "");
    if (this.tries) showBits(element("hash"), this.search.state[0], this.search.zeros, false);
  }
}

// 32 bits in groups of four; those that are the zeros at the beginning stand out.
function showBits(place, word, zeros, isTarget) {
  const text = (word >>> 0).toString(2).padStart(32, "0");
  const groups = (bits, from) => [...bits].map((bit, i) => ((from + i) % 4 || !(from + i) ? bit : ` ${bit}`)).join("");
  const first = document.createElement("b");
  const most = Math.min(zeros, 32);
  first.textContent = groups(text.slice(0, most), 0);
  const rest = isTarget ? "·".repeat(32 - most) : text.slice(most);
  place.replaceChildren(first, groups(rest, most));
}

function say(text, state) {
  put("mined", text);
  element("mined").dataset.found = state;
}

// The form computes on the server; here it does so as the sliders move, one request at a time.
function follow(form) {
  form.querySelector("button").hidden = true;
  let isAsking = false, isNew = false;
  const ask = async () => {
    if (isAsking) { isNew = true; return; }
    isAsking = true;
    do {
      isNew = false;
      const query = new URLSearchParams(new FormData(form));
      try {
        const answer = await fetch(`/lab/attack?${query}`, { headers: { Accept: "text/html" } });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const open = element("chances").querySelector("details")?.open;
        const fresh = document.adoptNode(page.getElementById("chances"));
        if (open) fresh.querySelector("details").open = true;
        element("chances").replaceWith(fresh);
      } catch {
        form.querySelector("button").hidden = false; // then by hand
      }
    } while (isNew);
    isAsking = false;
  };
  form.addEventListener("input", () => {
    put("share-shown", `${Math.round(element("share").value * 100)} %`);
    put("confirmations-shown", element("confirmations").value);
    ask();
  });
}

if (typeof document !== "undefined") {
  const mine = document.querySelector("#mine[data-bits]");
  if (mine) new Bench(mine);
  const sliders = document.querySelector("#attack form");
  if (sliders) follow(sliders);
}
