// Takes the form over: follows the run as it goes, then shows what the server says of it.

const form = document.getElementById("validate");
const button = form.querySelector("button");
const told = document.getElementById("told");
const bar = document.getElementById("done");
const run = document.getElementById("run");

const count = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const few = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const fine = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

// Only what is worth interrupting one who listens: the beginning, each quarter, the end.
function tell(text, bad = false) {
  if (told.textContent === text) return;
  told.textContent = text;
  told.classList.toggle("bad", bad);
}

function fact(id, text) {
  document.getElementById(id).textContent = text;
}

function show({ blocks, of, bytes, seconds }) {
  fact("blocks", count.format(blocks));
  fact("of", of === null ? "" : `of ${count.format(of)}`);
  fact("gigabytes", `${fine.format(bytes / 1e9)} GB`);
  fact("elapsed", `${few.format(seconds)} s`);
  fact("speed", seconds > 0 ? `${fine.format(bytes / seconds / 1e9)} GB/s` : "–");
  fact("rate", seconds > 0 ? `${count.format(blocks / seconds)} blocks/s` : "");
  if (!of) return;
  bar.max = of;
  bar.value = Math.min(blocks, of);
  const quarter = Math.floor((4 * bar.value) / of);
  if (quarter > 0 && quarter < 4) tell(`${25 * quarter} % is read.`);
}

function begin() {
  button.ariaDisabled = "true"; // one that is disabled would lose the focus
  run.hidden = false;
  bar.removeAttribute("value"); // not known yet
  show({ blocks: 0, of: null, bytes: 0, seconds: 0 });
  tell("Validation has begun.");
  follow(new EventSource("/validate/events"));
}

function end(source, text, bad) {
  source.close(); // or the browser would come again, and start another run
  run.hidden = true;
  button.ariaDisabled = null;
  tell(text, bad);
}

function follow(source) {
  source.addEventListener("progress", (event) => show(JSON.parse(event.data)));
  source.addEventListener("report", async (event) => {
    source.close();
    const { valid, failed_block: failed } = JSON.parse(event.data);
    const words = valid ? "The ledger is valid." : `NOT VALID: see block ${count.format(failed)}.`;
    await showReport().catch(() => {}); // then these are all that there is
    end(source, words, !valid);
  });
  source.addEventListener("failed", (event) => {
    end(source, `There is no verdict: ${JSON.parse(event.data).detail}`, true);
  });
  source.addEventListener("error", () => {
    end(source, "The node does not answer any more: there is no verdict here.", true);
  });
}

async function showReport() {
  const answer = await fetch("/validate", { headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = document.adoptNode(page.getElementById("report"));
  document.getElementById("report").replaceWith(fresh);
  document.dispatchEvent(new CustomEvent("cairn:shown", { detail: [fresh] }));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (run.hidden) begin();
});
if ("running" in form.dataset) begin(); // joins it
