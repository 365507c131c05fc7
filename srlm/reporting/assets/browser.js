"use strict";
// The browser of prompts: filters and search over all of them, a list that draws only the rows in sight, one prompt in
// full. Texts are written by models and are hostile: they reach the page as text nodes alone, never as markup.

(async () => {
  const ROW = 52;  // pixels, as in report.css
  const SOURCES = { feedback: "Feedback (training prompts)", evaluation: "Evaluation answers", ifeval: "IFEval answers", held_out: "Held-out judgements" };
  const SHORT = { evaluation: "evaluation", ifeval: "IFEval", held_out: "held-out" };
  const FIELDS = ["query", "run", "source", "iteration", "type", "outcome", "flag", "gap", "order"];
  // Control, format and bidirectional characters: invisible, and a way to fool a reader or a judge.
  const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
  const $ = (id) => document.getElementById(id);
  const { piece: PIECE, limit, folder } = JSON.parse(document.body.dataset.places);

  if (!window.DecompressionStream) {
    $("found").textContent = "Charts and prompts need a browser of 2023 or later; the verdict and the table above do not.";
    return;
  }
  const runs = await Report.embedded("charts");
  const labels = await Report.embedded("labels"), FLAGS = labels.flags;
  const index = (await Report.embedded("index")).map((rows) =>
    rows.map(([id, source, iteration, type, outcome, gap, flags, pairs, score, length, excerpt], place) =>
      ({ id, source, iteration, type, outcome, gap, flags, pairs, score, length, excerpt, place })));
  const texts = index.map((rows) => new Array(rows.length));  // lower case, for the search
  const pieces = new Map();
  let found = [], chosen = null, wanted = 0, missing = false, diffOpen = false;

  const field = (name) => $(name)?.value ?? "";
  const currentRun = () => +(field("run") || 0);

  function piece(run, n) {
    const name = `${run}-${n}`, embedded = () => Report.embedded(`piece-${name}`);
    if (!pieces.has(name)) pieces.set(name, folder && !missing ? Report.load(folder, name).catch(() => { tellCut(); return embedded(); }) : embedded());
    return pieces.get(name);
  }

  function tellCut() {
    missing = true;
    $("cut").hidden = false;
    $("cut").textContent = `Answers are cut at ${d3.format(",")(limit)} characters here and judgements sooner: the whole texts lie in the folder `
      + `${folder.split("/")[0]}, which is not next to this page or belongs to a newer one. One file with everything: srlm report RUN --megabytes 0`;
  }

  async function searchable(run) {
    for (let n = 0; n * PIECE < index[run].length; n++) {
      if (texts[run][n * PIECE] !== undefined) continue;
      const entries = await piece(run, n);
      entries.forEach((entry, i) => {
        texts[run][n * PIECE + i] = [entry.id, ...entry.history.map((turn) => turn.content), entry.prompt, ...entry.answers.flatMap((answer) =>
          [answer.thought, answer.text, ...answer.judgements.map((judged) => judged.text)]),
          ...entry.comparisons.map((comparison) => comparison.text)].join("\n").toLowerCase();
      });
      await new Promise((resolve) => setTimeout(resolve));  // keys and scrolling come first
    }
  }

  function choices(id, values, all) {
    const select = $(id), before = select.value;
    d3.select(select).selectAll("option").data([["", all], ...values]).join("option")
      .attr("value", (value) => value[0]).text((value) => value[1]);
    select.value = [...select.options].some((option) => option.value === before) ? before : "";
  }

  function fillChoices() {
    const rows = index[currentRun()];
    const unique = (get, of = rows) => [...new Set(of.map(get))].filter((value) => value !== "");
    choices("source", unique((row) => row.source).map((source) => [source, SOURCES[source]]), "everything");
    const shown = rows.filter((row) => !field("source") || row.source === field("source"));
    choices("iteration", unique((row) => row.iteration || "", shown).map((t) => [t, `for M${t}`]), "all");
    choices("type", unique((row) => row.type, shown).sort().map((type) => [type, type.replaceAll("_", " ")]), "all");
    choices("outcome", unique((row) => row.outcome, shown).sort().map((outcome) => [outcome, outcome]), "all");
    choices("flag", [...new Set(shown.flatMap((row) => row.flags))].sort().map((flag) => [flag, FLAGS[flag]]), "all");
  }

  // Show the prompts that match. With `follow`, the open prompt is one of them.
  async function filter(follow = true) {
    const turn = ++wanted, run = currentRun(), query = field("query").trim().toLowerCase(), gap = field("gap");
    if (query) await searchable(run);
    if (turn !== wanted) return;  // a newer search has begun
    const start = performance.now();
    found = index[run].filter((row) =>
      (!field("source") || row.source === field("source"))
      && (!field("iteration") || row.iteration === +field("iteration"))
      && (!field("type") || row.type === field("type"))
      && (!field("outcome") || row.outcome === field("outcome"))
      && (!field("flag") || row.flags.includes(field("flag")))
      && (gap === "" || (row.gap != null && row.gap >= +gap))
      && (!query || texts[run][row.place].includes(query)));
    const [by, down] = field("order").split("-");  // prompts without a value come last
    if (by) found = d3.sort(found, (row) => (row[by] == null ? Infinity : down ? -row[by] : row[by]));
    $("list").scrollTop = 0;
    draw();
    document.body.dataset.searchMs = (performance.now() - start).toFixed(1);
    $("found").textContent = `${d3.format(",")(found.length)} of ${d3.format(",")(index[run].length)} prompts`;
    if (follow && !found.includes(chosen)) {
      if (found.length) choose(found[0]);
      else close("No prompt matches.");
    }
    remember();
  }

  function close(message) {
    chosen = null;
    $("entry").removeAttribute("data-id");
    $("entry").textContent = message;
  }

  function draw() {
    const list = $("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
    const shown = found.slice(first, first + Math.ceil(list.clientHeight / ROW) + 8);
    $("rows").style.height = `${found.length * ROW}px`;
    d3.select("#rows").selectAll(".row").data(shown, (row) => `${row.place}/${row.id}/${field("order")}`).join((enter) => {
      const row = enter.append("div").attr("class", "row").attr("role", "option").on("click", (_, d) => choose(d));
      row.append("div").text((d) => visible(d.excerpt));
      row.append("div").attr("class", "quiet").text((d) => [
        SHORT[d.source] ?? `for M${d.iteration}`,
        d.type.replaceAll("_", " "), d.outcome, d.gap == null ? "" : `gap ${d3.format(".2f")(d.gap)}`,
        field("order").startsWith("score") ? `best score ${score(d.score)}` : field("order").startsWith("length") ? `${d3.format(",")(d.length)} characters` : "",
      ].filter(Boolean).join(" · "));
      return row;
    }).style("top", (_, i) => `${(first + i) * ROW}px`).attr("id", (d) => `row-${d.place}`)
      .attr("aria-setsize", found.length).attr("aria-posinset", (_, i) => first + i + 1)
      .attr("aria-selected", (d) => d === chosen);
    if (chosen) list.setAttribute("aria-activedescendant", `row-${chosen.place}`);
  }

  const visible = (text) => text.replace(CONTROL, "·");

  // A text as nodes: the search's words marked, invisible characters shown by their code.
  function fill(node, text) {
    const query = field("query").trim().toLowerCase();
    const plain = (part) => {
      let last = 0;
      for (const match of part.matchAll(CONTROL)) {
        node.append(part.slice(last, match.index));
        const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
        node.append(Object.assign(document.createElement("span"), { className: "control", textContent: `U+${code}` }));
        last = match.index + match[0].length;
      }
      node.append(part.slice(last));
    };
    const lower = text.toLowerCase();
    let last = 0;
    // Where lower case changes a text's length, places do not match: it is shown unmarked.
    for (let at; query && lower.length === text.length && (at = lower.indexOf(query, last)) >= 0; last = at + query.length) {
      plain(text.slice(last, at));
      node.append(Object.assign(document.createElement("mark"), { textContent: text.slice(at, at + query.length) }));
    }
    plain(text.slice(last));
  }

  const textNode = (parent, name, text) =>
    parent.append("div").attr("class", `text ${name}`).attr("dir", "auto").each(function () { fill(this, text); });

  const score = (value) => (value == null ? "no score" : d3.format(".2f")(value));

  async function choose(row, focus = false) {
    chosen = row;
    draw();
    const run = currentRun(), entry = (await piece(run, Math.floor(row.place / PIECE)))[row.place % PIECE];
    if (chosen !== row) return;
    const node = d3.select("#entry").html("").attr("data-id", entry.id);
    const head = node.append("h3");
    head.append("span").text(entry.id);
    const about = [entry.source === "feedback" ? `answered by M${entry.iteration - 1}, for the training of M${entry.iteration}` : SOURCES[entry.source],
      entry.type.replaceAll("_", " "), entry.outcome, entry.gap == null ? "" : `gap ${score(entry.gap)}`];
    head.append("span").attr("class", "quiet").text(about.filter(Boolean).join(" · "));
    head.append("a").attr("href", `#${link()}`).text("link to this prompt");
    if (entry.flags.length) node.append("p").text(`Flags: ${entry.flags.map((flag) => FLAGS[flag]).join(", ")}.`);
    for (const turn of entry.history) textNode(node, "prompt turn", `${turn.role}: ${turn.content}`);
    textNode(node, "prompt", entry.prompt);
    if (entry.answers.length > 1) compare(node, entry);
    const order = entry.source === "feedback" ? d3.sort(entry.answers, (a) => -(a.score ?? -Infinity)) : entry.answers;
    for (const answer of order) {
      const box = node.append("section").attr("class", `answer ${answer.mark.split(" ")[0]}`).attr("aria-label", `answer ${answer.label}`);
      const title = box.append("h4");
      title.append("span").text(answer.label);
      if (answer.mark) title.append("span").attr("class", /^(chosen|won)/.test(answer.mark) ? "good" : /^(rejected|lost)/.test(answer.mark) ? "bad" : "quiet")
        .text((/^(chosen|won)/.test(answer.mark) ? "✓ " : /^(rejected|lost)/.test(answer.mark) ? "✗ " : "") + answer.mark);
      if (answer.rank != null) title.append("span").text(`people's rank ${answer.rank + 1}`);
      if (answer.judgements.length || answer.score != null) title.append("span").text(`score ${score(answer.score)}`);
      title.append("span").attr("class", "quiet").text([answer.tokens ? `${answer.tokens} tokens` : "", `${d3.format(",")(answer.characters)} characters`, answer.truncated ? "truncated" : ""].filter(Boolean).join(" · "));
      if (answer.checks.length) {
        const followed = d3.sum(answer.checks, Number);
        const checks = box.append("ul").attr("class", "checks").attr("aria-label", `follows ${followed} of ${answer.checks.length} instructions`);
        checks.selectAll("li").data(d3.zip(entry.constraints, answer.checks)).join("li").attr("class", ([, good]) => (good ? "good" : "bad"))
          .text(([words, good]) => `${good ? "✓ follows" : "✗ does not follow"} ${words}`);
      }
      if (answer.thought) {
        const thought = box.append("details");
        thought.append("summary").text("Thought before the answer");
        textNode(thought, "quiet", answer.thought);
      }
      textNode(box, "", answer.text || "(empty)");
      if (answer.judgements.length) {
        const details = box.append("details").property("open", answer.judgements.length <= 3 && entry.source === "feedback");
        details.append("summary").text(`${answer.judgements.length} judgement${answer.judgements.length > 1 ? "s" : ""}: `
          + answer.judgements.map((judged) => `${judged.by ? `${judged.by} ` : ""}${score(judged.score)}`).join(", "));
        for (const judged of answer.judgements) {
          const one = details.append("div").attr("class", "judgement");
          one.append("strong").text(`${judged.by} ${score(judged.score)}${judged.problem ? ` (${judged.problem})` : ""}`.trim());
          if (judged.percents.length)
            one.append("span").attr("class", "quiet").text(` the mean of ${judged.percents.map((p, i) => `${i}: ${p} %`).join(", ")}; it wrote:`);
          if (judged.text) textNode(one, "", judged.text);
        }
      }
    }
    if (entry.comparisons.length) {
      const details = node.append("details").property("open", entry.source === "evaluation");
      details.append("summary").text(`${entry.comparisons.length} comparisons`);
      for (const comparison of entry.comparisons) {
        const one = details.append("div").attr("class", "judgement");
        one.append("span").text(`${comparison.shown}: `);
        one.append("strong").text(comparison.winner ? `for ${comparison.winner} ` : `no verdict (${comparison.problem}) `);
        one.append("span").each(function () { fill(this, comparison.text); });
      }
    }
    $("entry").scrollTop = 0;
    if (focus) $("entry").focus({ preventScroll: true });
    remember();
  }

  // The differences of two answers by words: of chosen and rejected, or of the last two models, until others are selected.
  function compare(node, entry) {
    const labels = entry.answers.map((answer) => answer.label), marked = (mark) => entry.answers.find((answer) => answer.mark === mark)?.label;
    const preset = marked("chosen") && marked("rejected") ? [marked("rejected"), marked("chosen")] : labels.slice(-2);
    const details = node.append("details").attr("class", "diff").property("open", diffOpen).on("toggle", function () { diffOpen = this.open; show(); });
    details.append("summary").text("Compare two answers word by word");
    const pick = preset.map((label, i) => {
      const select = details.append("label").text(i ? " with " : "From ").append("select").on("change", show);
      select.selectAll("option").data(labels).join("option").attr("value", String).text(String);
      return select.property("value", label);
    });
    const shown = details.append("div").attr("class", "text").attr("dir", "auto");
    function show() {
      if (!diffOpen) return;
      const [from, to] = pick.map((select) => entry.answers.find((answer) => answer.label === select.property("value")));
      shown.text("");
      for (const [kind, text] of Diff.parts(from.text, to.text))
        shown.append({ same: "span", removed: "del", added: "ins" }[kind]).each(function () { fill(this, text); });
    }
    show();
  }

  // The page's address holds the filters and the prompt, so that a link opens what is shown.
  function link() {
    const state = new URLSearchParams();
    for (const name of FIELDS) if (field(name) && !(name === "run" && field(name) === "0")) state.set(name, field(name));
    if (chosen) state.set("prompt", chosen.id);
    return state.toString();
  }

  function remember() {
    if (link()) history.replaceState(null, "", `#${link()}`);
    else if (location.hash.includes("=")) history.replaceState(null, "", "#browser");
  }

  async function open() {
    const state = new URLSearchParams(location.hash.slice(1));
    if (![...state.keys()].some((name) => name === "prompt" || FIELDS.includes(name))) return false;
    for (const name of ["run", "source"]) if ($(name)) { $(name).value = state.get(name) ?? (name === "run" ? "0" : ""); fillChoices(); }
    for (const name of FIELDS) if ($(name) && !["run", "source"].includes(name)) $(name).value = state.get(name) ?? "";
    const id = state.get("prompt");
    chosen = null;
    await filter(!id);
    if (!id) return true;
    const row = found.find((one) => one.id === id) ?? index[currentRun()].find((one) => one.id === id);
    if (!row) { close(`There is no prompt ${id} in this run.`); return true; }
    if (found.includes(row)) $("list").scrollTop = Math.max(0, found.indexOf(row) * ROW - 100);
    await choose(row);
    $("panes").scrollIntoView();
    return true;
  }

  function step(by) {
    if (!found.length) return;
    const at = found.indexOf(chosen), next = Math.min(found.length - 1, Math.max(0, at < 0 ? 0 : at + by)), list = $("list");
    if (next * ROW < list.scrollTop) list.scrollTop = next * ROW;
    if ((next + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (next + 1) * ROW - list.clientHeight;
    choose(found[next]);
  }

  $("list").addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  addEventListener("resize", draw);
  addEventListener("hashchange", open);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const name of FIELDS)
    $(name)?.addEventListener(name === "query" || name === "gap" ? "input" : "change", () => {
      if (name === "run" || name === "source") fillChoices();
      filter();
    });
  $("clear").addEventListener("click", () => {
    for (const name of FIELDS) if ($(name) && !["run", "order"].includes(name)) $(name).value = "";
    fillChoices();
    filter();
  });
  addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && typing) { if (event.target.id === "query") { event.target.value = ""; filter(); } event.target.blur(); return; }
    if (event.target.id === "query" && ["ArrowDown", "Enter"].includes(event.key)) { event.preventDefault(); $("list").focus(); return; }
    if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    // Elsewhere the arrow keys scroll.
    const inList = event.target === $("list"), page = Math.floor($("list").clientHeight / ROW);
    const steps = { j: 1, k: -1, ...(inList && { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }) };
    if (event.key in steps) { event.preventDefault(); step(steps[event.key]); }
    else if (event.key === "Enter" && inList && found.length) choose(chosen ?? found[0], true);
    else if (event.key === "Escape" && $("entry").contains(event.target)) $("list").focus();
    else if (event.key === "/") { event.preventDefault(); $("query").focus(); $("query").select(); }
  });

  const themes = ["auto", "light", "dark"];
  $("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % 3];
    document.documentElement.dataset.theme = next;
    $("theme").textContent = `Theme: ${next}`;
  });

  fillChoices();
  const linked = await open();
  if (!linked) await filter(false);
  document.body.dataset.ready = "list";
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  Charts(runs, labels);
  Verdicts(runs, index, piece, () => missing, { fill });
  if (linked && chosen) $("panes").scrollIntoView();  // the charts have moved it
  document.body.dataset.ready = "charts";
  for (let run = 0; run < index.length; run++) await searchable(run);  // so that the first search finds texts unpacked
  document.body.dataset.ready = "texts";
})();
