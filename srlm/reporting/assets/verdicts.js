"use strict";
// A reader's verdicts: two answers without names and scores, in random order. They are kept in localStorage under the
// run's id, exported as JSON Lines (srlm.types.Verdict) and merged on import.

// `piece` returns the entries of a run's piece, `isCut` whether their texts are cut, `fill` puts a text into a node.
const Verdicts = (runs, index, piece, isCut, { fill }) => {
  const KEYS = { a: "a", b: "b", t: "tie", s: "skip", u: "undo" };
  const FIELDS = ["run", "prompt_id", "prompt", "first_id", "second_id", "first", "second", "order", "verdict", "time"];
  const $ = (id) => document.getElementById(id);
  const { piece: PIECE } = JSON.parse(document.body.dataset.places);
  const kept = new Map();  // run id -> key -> verdict; also where localStorage is not available
  let queue = [], done = [], seed = 0, shown = null, stored = true;

  const current = () => +($("verdict-run")?.value ?? 0);
  const keyOf = (verdict) => [verdict.prompt_id, verdict.first_id, verdict.second_id].join(" ");

  function of(run) {
    if (!kept.has(run)) {
      let rows = [];
      try { rows = JSON.parse(localStorage.getItem(`srlm-verdicts/${run}`)) ?? []; } catch { stored = false; }
      kept.set(run, new Map(rows.map((verdict) => [keyOf(verdict), verdict])));
    }
    return kept.get(run);
  }

  function save(run) {
    try { localStorage.setItem(`srlm-verdicts/${run}`, JSON.stringify([...of(run).values()])); } catch { stored = false; }
    tell();
  }

  // All pairs of a run, by kind: the answers of two models, or the pairs of one iteration.
  function kinds(run) {
    const found = new Map();
    for (const row of index[run])
      for (const [first, second] of row.pairs) {
        const kind = row.source === "feedback" ? `candidates of M${row.iteration - 1}, for M${row.iteration}` : `${first} against ${second}`;
        if (!found.has(kind)) found.set(kind, []);
        found.get(kind).push({ row, first, second });
      }
    return new Map(d3.sort(found, ([kind]) => kind.startsWith("candidates"), ([, items]) => -items[0].first.slice(1)));  // last model first
  }

  const left = (run, items) => items.filter(({ row, first, second }) => !of(runs[run].id).has([row.id, first, second].join(" ")));

  function tell(message = "") {
    const run = current(), found = kinds(run), verdicts = [...of(runs[run].id).values()];
    const before = $("verdict-kind").value;
    d3.select("#verdict-kind").selectAll("option").data([...found]).join("option").attr("value", (kind) => kind[0])
      .text(([kind, items]) => `${kind} (${left(run, items).length} left)`);
    if (found.has(before)) $("verdict-kind").value = before;
    $("start").disabled = !runs[run].id || !found.size;
    $("export").disabled = !verdicts.length;
    const counts = ["tie", "skip"].map((name) => verdicts.filter((one) => one.verdict === name).length);
    $("marked").textContent = [message,
      !runs[run].id || !found.size ? "This run has no two different answers to compare yet." :
        `Verdicts on ${runs[run].name} in this browser: ${verdicts.length} (ties: ${counts[0]}, skipped: ${counts[1]}).`,
      stored ? "" : "This browser stores nothing for this page: export before you close it."].filter(Boolean).join(" ");
  }

  async function start() {
    const run = current(), items = left(run, kinds(run).get($("verdict-kind").value) ?? []);
    seed = crypto.getRandomValues(new Uint32Array(1))[0];
    const random = d3.randomLcg(seed / 2 ** 32);  // shuffles the prompts, and the order of each pair
    queue = d3.shuffler(random)([...items]).map((item) => ({ ...item, order: random() < 0.5 ? "ab" : "ba" }));
    done = [];
    await next();
    if (isCut()) tell("The texts are cut in this page, so they cannot be compared: see the note above the prompts.");
    else $("blind").showModal();
  }

  async function next() {
    shown = null;
    const item = queue[0], run = current();
    const put = (id, text) => { $(id).textContent = ""; fill($(id), text); $(id).scrollTop = 0; };
    $("blind-progress").textContent = `${done.length} marked, ${queue.length} left`;
    if (!item) {
      for (const [id, text] of [["blind-prompt", "You have compared all of these answers."], ["blind-a", ""], ["blind-b", ""]]) put(id, text);
      return;
    }
    const entry = (await piece(run, Math.floor(item.row.place / PIECE)))[item.row.place % PIECE];
    if (isCut()) { $("blind").close(); return; }
    const [first, second] = [item.first, item.second].map((label) => entry.answers.find((answer) => answer.label === label).text);
    shown = { item, entry, first, second };
    $("blind-prompt").textContent = "";
    for (const text of [...entry.history.map((turn) => `${turn.role}: ${turn.content}`), entry.prompt]) {
      const node = Object.assign(document.createElement("div"), { className: "text prompt", dir: "auto" });
      fill(node, text);
      $("blind-prompt").append(node);
    }
    put("blind-a", (item.order === "ab" ? first : second) || "(empty)");
    put("blind-b", (item.order === "ab" ? second : first) || "(empty)");
  }

  async function mark(choice) {
    const run = runs[current()].id;
    if (choice === "undo") {
      if (!done.length) return;
      queue.unshift(done.pop());
      const { row, first, second } = queue[0];
      of(run).delete([row.id, first, second].join(" "));
    } else {
      if (!shown) return;
      const { item, entry, first, second } = shown;
      const better = choice === "a" || choice === "b" ? ((choice === "a") === (item.order === "ab") ? "first" : "second") : choice;
      const verdict = { version: 1, run, prompt_id: entry.id, prompt: entry.prompt, first_id: item.first, second_id: item.second,
        first, second, order: item.order, verdict: better, seed, time: new Date().toISOString() };
      if (entry.history.length) verdict.history = entry.history;
      of(run).set(keyOf(verdict), verdict);
      done.push(queue.shift());
    }
    save(run);
    await next();
  }

  function download() {
    const { id } = runs[current()], lines = [...of(id).values()].map((verdict) => `${JSON.stringify(verdict)}\n`);
    const link = Object.assign(document.createElement("a"), { download: `${id}-verdicts.jsonl`,
      href: URL.createObjectURL(new Blob(lines, { type: "application/jsonl" })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  async function merge(file) {
    const { id } = runs[current()], counts = { imported: 0, older: 0, "of another run": 0, unreadable: 0 };
    for (const line of (await file.text()).split("\n").filter((one) => one.trim())) {
      let verdict = null;
      try { verdict = JSON.parse(line); } catch { /* counted below */ }
      if (verdict?.version !== 1 || !FIELDS.every((name) => typeof verdict[name] === "string")) counts.unreadable++;
      else if (verdict.run !== id) counts["of another run"]++;
      else if (of(id).get(keyOf(verdict))?.time >= verdict.time) counts.older++;
      else { of(id).set(keyOf(verdict), verdict); counts.imported++; }
    }
    save(id);
    tell(`${file.name}: ${Object.entries(counts).filter(([name, n]) => n || name === "imported").map(([name, n]) => `${n} ${name}`).join(", ")}.`);
  }

  $("marking").addEventListener("submit", (event) => event.preventDefault());
  $("verdict-run")?.addEventListener("change", () => tell());
  $("start").addEventListener("click", start);
  $("export").addEventListener("click", download);
  $("import").addEventListener("change", async (event) => { for (const file of event.target.files) await merge(file); event.target.value = ""; });
  $("blind-close").addEventListener("click", () => $("blind").close());
  for (const button of document.querySelectorAll("[data-verdict]")) button.addEventListener("click", () => mark(button.dataset.verdict));
  $("blind").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !(event.key in KEYS)) return;
    event.preventDefault();
    mark(KEYS[event.key]);
  });
  tell();
};
