"use strict";
// Draws the figures from the numbers that srlm/reporting/collect.py gathers. Each has a table of its data below it.

const Report = {
  received: new Map(),

  // Called by a file of the folder next to the page, with its piece.
  receive(name, packed) { this.received.get(name)(packed); },

  load(folder, name) {
    return new Promise((resolve, reject) => {
      this.received.set(name, resolve);
      const script = document.createElement("script");
      script.onerror = reject;
      script.src = `${folder}-${name}.js`;
      document.head.append(script);
    }).then(this.unpack);
  },

  // The JSON that page.py packed: base64 of raw deflate.
  async unpack(packed) {
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return JSON.parse(await new Response(stream).text());
  },

  embedded(name) { return this.unpack(document.getElementById(`data-${name}`).textContent); },
};

const Charts = (() => {
  const COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8a8a8a"];  // Okabe and Ito
  const SYMBOLS = [d3.symbolCircle, d3.symbolSquare, d3.symbolTriangle, d3.symbolDiamond, d3.symbolStar, d3.symbolCross, d3.symbolWye];
  let WIDTH = 430;  // more with three runs or more
  const percent = (value) => (value == null ? "" : `${d3.format(".0f")(100 * value)} %`);
  const interval = (row, show) => (row.low == null ? "[n/a]" : `[${show(row.low)}, ${show(row.high)}]`);
  const number = (value) => (value == null ? "" : d3.format(Math.abs(value) >= 10 ? ",.0f" : ".2f")(value));

  // Plot's own style elements are removed: the page's policy allows none, and report.css has the same rules.
  function figure(title, about, svg, columns, rows) {
    const node = d3.create("figure");
    d3.select("#figures").append(() => node.node());
    const caption = node.append("figcaption");
    caption.append("span").text(title);
    caption.append("small").text(about);
    if (!svg) return node;
    for (const style of svg.querySelectorAll("style")) style.remove();
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${title}. ${about} The numbers are in the table below.`);
    node.append(() => svg);
    const details = node.append("details");
    details.append("summary").text("Numbers");
    const table = details.append("div").attr("class", "scroll").append("table");
    table.append("thead").append("tr").selectAll("th").data(columns).join("th").attr("scope", "col").text((c) => c[0]);
    const cell = (row) => columns.map(([, get]) => get(row));
    table.append("tbody").selectAll("tr").data(rows).join("tr").selectAll("td").data(cell).join("td").text(String);
    return node;
  }

  // `tips` are the definitions of the names.
  function legend(node, names, scale, symbols, tips = {}) {
    const items = d3.create("div").attr("class", "swatches").selectAll("span").data(names).join("span");
    items.append("svg").attr("width", 12).attr("height", 12).append("path").attr("transform", "translate(6,6)")
      .attr("d", (_, i) => d3.symbol(symbols ? SYMBOLS[i % 7] : d3.symbolSquare, 70)()).attr("fill", scale);
    items.append("span").text(String).each(function (name) { if (tips[name]) Tips.add(this, tips[name]); });
    node.insert(() => items.node().parentNode, "svg");
  }

  const define = (node, text) => node.select("figcaption span").each(function () { Tips.add(this, text); });
  const palette = (names) => d3.scaleOrdinal(names, COLORS);
  const facets = (runs) => (runs.length > 1 ? { fx: "run" } : {});
  const facetAxis = (runs) => ({ label: null, domain: runs.map((run) => run.name), tickFormat: short });
  const short = (name) => (name.length > 20 ? `${name.slice(0, 11)}…${name.slice(-8)}` : name);

  // Measures by model with 95 % intervals; `names` is a list of [part, measure, label].
  function measureRows(runs, names) {
    const rows = [];
    for (const run of runs)
      for (const [t, parts] of Object.entries(run.models))
        names.forEach(([part, measure, label], i) => {
          const found = parts[part]?.[measure];
          if (found && found.value != null) {
            const place = +t + (i - (names.length - 1) / 2) * 0.09;
            rows.push({ run: run.name, t: +t, place, measure: label, n: found.n,
              value: found.value, low: found.low, high: found.high });
          }
        });
    return rows;
  }

  // A panel of srlm/reporting/panels.py. `line` is a value of the measures; `domain` is in the axis's unit.
  function byModel(runs, { title, about, metrics: names, share, domain, line }) {
    const rows = measureRows(runs, names);
    if (!rows.length) return;
    const shown = names.map((name) => name[2]).filter((words) => rows.some((row) => row.measure === words));
    const color = palette(shown), models = d3.range(d3.max(rows, (row) => row.t) + 1);
    const svg = Plot.plot({
      width: WIDTH, height: 240, marginLeft: 44, marginBottom: 28,
      x: { domain: [-0.4, models.length - 0.6], ticks: models, tickFormat: (t) => `M${t}`, label: null },
      y: { domain: domain ?? undefined, nice: true, grid: true, label: null, percent: share, tickFormat: share ? (v) => `${v} %` : undefined },
      fx: facetAxis(runs),
      color: { domain: shown, range: shown.map(color) },
      symbol: { domain: shown, range: SYMBOLS.slice(0, shown.length) },
      marks: [
        line == null ? null : Plot.ruleY([line], { strokeDasharray: "4 3", strokeOpacity: 0.6 }),
        Plot.line(rows, { x: "place", y: "value", stroke: "measure", strokeWidth: 1.5, ...facets(runs) }),
        Plot.ruleX(rows.filter((row) => row.low != null), { x: "place", y1: "low", y2: "high", stroke: "measure", strokeOpacity: 0.65, ...facets(runs) }),
        Plot.dot(rows, { x: "place", y: "value", fill: "measure", symbol: "measure", r: 4, ...facets(runs),
          title: (row) => `${row.measure}, M${row.t}: ${share ? percent(row.value) : number(row.value)} `
            + `${interval(row, share ? percent : number)}, n = ${row.n}` }),
      ],
    });
    const show = share ? percent : number;
    const node = figure(title, about, svg, [
      ["run", (row) => row.run], ["model", (row) => `M${row.t}`], ["measure", (row) => row.measure],
      ["value", (row) => show(row.value)], ["low", (row) => show(row.low)], ["high", (row) => show(row.high)],
      ["n", (row) => row.n],
    ], rows);
    const tips = Object.fromEntries(names.map(([, , label, definition]) => [label, definition]));
    if (shown.length > 1) legend(node, shown, color, true, tips);
    else define(node, tips[shown[0]]);
  }

  function wins(runs, defined) {
    const rows = [], names = ["win", "tie", "loss"], many = runs.length > 1;
    for (const run of runs)
      for (const [t, parts] of Object.entries(run.models)) {
        const all = parts.head_to_heads ?? (parts.head_to_head ? { [t - 1]: parts.head_to_head } : {});
        for (const [u, match] of Object.entries(all))
          for (const name of names)
            if (match[name]?.value != null)
              rows.push({ match: `${many ? `${short(run.name)}: ` : ""}M${t} against M${u}`, run: run.name, result: name,
                ...match[name], net: match.net_win, controlled: match.length_controlled_win_rate });
      }
    if (!rows.length) return;
    const color = d3.scaleOrdinal(names, ["#0072B2", "#b9bec4", "#E69F00"]);
    const matches = [...new Set(rows.map((row) => row.match))];
    const nets = rows.filter((row) => row.result === "win" && row.net?.low != null);
    const judges = [...new Set(runs.flatMap((run) => Object.values(run.models).map((m) => m.head_to_head_judge)))];
    const judge = judges.filter(Boolean).join(", ");
    const svg = Plot.plot({
      width: WIDTH, height: 40 + 34 * matches.length, marginLeft: d3.max(matches, (m) => 7 * m.length) + 6, marginRight: 124,
      x: { percent: true, domain: [0, 100], label: null, tickFormat: (v) => `${v} %` },
      y: { domain: matches, label: null },
      color: { domain: names, range: names.map(color) },
      marks: [
        Plot.barX(rows, { x: "value", y: "match", fill: "result", order: names,
          title: (row) => `${row.match}: ${row.result} ${percent(row.value)} ${interval(row, percent)}, n = ${row.n}` }),
        Plot.text(nets, { x: 1, y: "match", dx: 6, textAnchor: "start",
          text: (row) => `net ${d3.format("+.0f")(100 * row.net.value)} [${d3.format("+.0f")(100 * row.net.low)}, ${d3.format("+.0f")(100 * row.net.high)}]` }),
      ],
    });
    const node = figure("Head to head", `Judged by ${judge}, in both orders; disagreement is a tie. Net: wins minus losses, percentage points.`, svg, [
      ["match", (row) => row.match], ["result", (row) => row.result], ["share", (row) => percent(row.value)],
      ["low", (row) => percent(row.low)], ["high", (row) => percent(row.high)], ["n", (row) => row.n],
      ["length-controlled win rate", (row) => percent(row.controlled?.value)],
    ], rows);
    legend(node, names, color, false, Object.fromEntries(names.map((name) => [name, defined[`head_to_head/${name}`]])));
    define(node, `Net win: ${defined["head_to_head/net_win"]}`);
  }

  function byType(runs, defined, few) {
    const many = runs.length > 1, tooFew = [];
    const rows = runs.flatMap((run) => {
      const found = run.models[run.last].head_to_heads?.[run.last - 1]?.types ?? {};
      const sizes = { ...run.types, ...Object.fromEntries(Object.entries(found).map(([type, match]) => [type, match.net_win.n])) };
      return Object.entries(sizes).flatMap(([name, n]) => {
        const type = `${name.replaceAll("_", " ")}${many ? `, ${short(run.name)}` : ""}`;
        if (n < few) tooFew.push(`${type} (${n})`);
        return n < few || found[name]?.net_win.low == null ? [] : [{ run: run.name, type, ...found[name].net_win }];
      });
    });
    const about = "The last model's answers against those of the model before."
      + (tooFew.length ? ` Not shown, because they have fewer than ${few} prompts: ${tooFew.join(", ")}.` : "");
    if (!rows.length) return tooFew.length ? figure("By type of instruction", about) : undefined;
    const types = d3.sort(new Set(rows.map((row) => row.type)));
    const svg = Plot.plot({
      width: WIDTH, height: 50 + 20 * types.length, marginLeft: d3.max(types, (type) => 6 * type.length) + 12, marginRight: 16,
      x: { domain: [-100, 100], percent: true, label: "wins minus losses, percentage points", grid: true }, y: { domain: types, label: null },
      marks: [
        Plot.ruleX([0], { strokeDasharray: "4 3", strokeOpacity: 0.6 }),
        Plot.ruleY(rows, { y: "type", x1: "low", x2: "high", stroke: COLORS[0], strokeOpacity: 0.65 }),
        Plot.dot(rows, { y: "type", x: "value", fill: COLORS[0], r: 4,
          title: (row) => `${row.type}: ${percent(row.value)} [${percent(row.low)}, ${percent(row.high)}], n = ${row.n}` }),
      ],
    });
    const node = figure("By type of instruction", about, svg, [
      ["type", (row) => row.type], ["net win", (row) => percent(row.value)], ["low", (row) => percent(row.low)],
      ["high", (row) => percent(row.high)], ["n", (row) => row.n],
    ], rows);
    define(node, defined["head_to_head/net_win"]);
  }

  function histograms(runs, defined) {
    const rows = runs.flatMap((run) => run.histograms.map((row) => ({ ...row, run: run.name, what: `${row.model}: ${row.of}` })));
    if (!rows.length) return;
    const whats = d3.sort(new Set(rows.map((row) => row.what))), names = d3.rollups(rows, (found) => found[0], (row) => row.run, (row) => row.what).flatMap(([, found]) => found.map(([, row]) => row));
    const svg = Plot.plot({
      width: WIDTH, height: 34 + 58 * whats.length, marginLeft: 40, marginRight: 8,
      x: { label: null, type: "band" }, y: { percent: true, domain: [0, 130], label: null, ticks: [0, 50, 100], grid: true, tickFormat: (v) => `${v} %` },
      fx: facetAxis(runs), fy: { domain: whats, axis: null },
      marks: [
        Plot.barY(rows, { x: "score", y: "share", fy: "what", fill: COLORS[0], ...facets(runs),
          title: (row) => `${row.run}, ${row.what}, score ${row.score}: ${row.count} (${percent(row.share)})` }),
        Plot.text(names, { fy: "what", text: "what", frameAnchor: "top-left", dx: 3, dy: 2, ...facets(runs) }),
        Plot.ruleY([0]),
      ],
    });
    const node = figure("Scores", "Rounded scores. A judge that gives nearly all answers the same score does not discriminate.", svg, [
      ["run", (row) => row.run], ["judge", (row) => row.what], ["score", (row) => row.score], ["count", (row) => row.count], ["share", (row) => percent(row.share)],
    ], rows);
    define(node, defined["judge_metrics/scores_histogram_0"]);
  }

  function funnel(runs, defined) {
    const many = runs.length > 1;
    const rows = runs.flatMap((run) => run.funnel.map((row) => ({ ...row, run: run.name,
      of: `${many ? `${short(run.name)}, ` : ""}for ${row.iteration}`,
      why: Object.entries(row.lost).map(([reason, n]) => `${n} ${reason}`).join("; ") })));
    if (!rows.length) return;
    const steps = [...new Set(rows.map((row) => row.step))], groups = [...new Set(rows.map((row) => row.of))];
    const svg = Plot.plot({
      width: WIDTH, height: 34 + groups.length * (steps.length * 24 + 22), marginLeft: 152, marginTop: 22, marginRight: 48,
      x: { label: null, ticks: 4 }, y: { domain: steps, label: null }, fy: { domain: groups, axis: null },
      marks: [
        Plot.barX(rows, { x: "count", y: "step", fy: "of", fill: COLORS[2], title: (row) => `${row.step}: ${row.count}${row.why ? `; lost: ${row.why}` : ""}` }),
        Plot.text(rows, { x: "count", y: "step", fy: "of", text: (row) => d3.format(",")(row.count), textAnchor: "start", dx: 4 }),
        Plot.text(groups, { fy: (group) => group, text: (group) => group, frameAnchor: "top-left", dx: -148, dy: -16, fontWeight: 600 }),
      ],
    });
    const lost = rows.filter((row) => row.why).map((row) => `${row.of}, before "${row.step}", ${row.why}`);
    const node = figure("From prompts to pairs", lost.length ? `Lost ${lost.join("; ")}.` : "Nothing was lost on the way.", svg, [
      ["", (row) => row.of], ["step", (row) => row.step], ["count", (row) => row.count], ["lost", (row) => row.why],
    ], rows);
    define(node, defined["feedback/pairs"]);
  }

  function curves(runs) {
    const rows = runs.flatMap((run) => run.curves.map((row) => ({ ...row,
      series: [runs.length > 1 ? `${short(run.name)}: ${row.training}` : row.training, row.of].filter(Boolean).join(", ") })));
    // SFT and DPO have separate scales: their losses and steps are not comparable.
    for (const [what, found] of d3.group(rows, (row) => `${row.training.split(" to ")[0]}, ${row.what}`)) {
      const names = [...new Set(found.map((row) => row.series))], color = palette(names);
      const svg = Plot.plot({
        width: WIDTH, height: 220, marginLeft: 48,
        x: { label: "step" }, y: { label: null, grid: true, nice: true },
        color: { domain: names, range: names.map(color) },
        marks: [
          Plot.dot(found, { x: "step", y: "value", fill: "series", r: 1.5, fillOpacity: 0.3 }),
          Plot.line(found, { x: "step", y: "smooth", stroke: "series", strokeWidth: 1.8 }),
          Plot.tip(found, Plot.pointer({ x: "step", y: "value",
            title: (row) => `${row.series}, step ${row.step}: ${number(row.value)}, smoothed ${number(row.smooth)}` })),
        ],
      });
      const node = figure(`Training: ${what}`, "On the training data: a moving average, and a dot for each logged step.", svg, [
        ["training", (row) => row.series], ["step", (row) => row.step], [what, (row) => number(row.value)], ["smoothed", (row) => number(row.smooth)],
      ], found);
      define(node, found[0].definition);
      if (names.length > 1) legend(node, names, color);
    }
  }

  function cost(runs, defined) {
    const many = runs.length > 1;
    const rows = runs.flatMap((run) => run.cost.map((row) => ({ ...row, of: `${many ? `${short(run.name)}: ` : ""}${row.when}` })));
    const total = d3.rollup(rows, (found) => d3.sum(found, (row) => row.seconds), (row) => row.stage);
    const top = [...total].sort((a, b) => b[1] - a[1]).slice(0, 6).map(([stage]) => stage);
    for (const row of rows) row.shown = top.includes(row.stage) ? row.stage : "other";
    const names = [...top, ...(total.size > top.length ? ["other"] : [])], color = palette(names);
    const groups = [...new Set(rows.map((row) => row.of))].sort();
    const minutes = d3.max(d3.rollup(rows, (found) => d3.sum(found, (row) => row.seconds), (row) => row.of).values()) > 240;
    const svg = Plot.plot({
      width: WIDTH, height: 44 + 30 * groups.length, marginLeft: d3.max(groups, (g) => 7 * g.length) + 10,
      x: { label: minutes ? "minutes" : "seconds", grid: true }, y: { domain: groups, label: null },
      color: { domain: names, range: names.map(color) },
      marks: [Plot.barX(rows, Plot.groupY({ x: "sum" }, { x: (row) => row.seconds / (minutes ? 60 : 1), y: "of", fill: "shown", order: names }))],
    });
    const node = figure("Time by stage", `${number(d3.sum(rows, (row) => row.seconds) / 60)} minutes of stages; those of one engine session overlap, so the run took less.`, svg, [
      ["", (row) => row.of], ["stage", (row) => row.stage], ["seconds", (row) => number(row.seconds)], ["tokens", (row) => d3.format(",")(row.tokens)],
    ], rows);
    define(node, defined["stage/sft_seconds"]);
    legend(node, names, color);
  }

  return (runs, { panels, definitions, few }) => {
    if (runs.length > 2) {
      WIDTH = 860;
      document.getElementById("figures").className = "large";
    }
    wins(runs, definitions);
    byType(runs, definitions, few);
    for (const panel of panels) byModel(runs, panel);
    histograms(runs, definitions);
    funnel(runs, definitions);
    curves(runs);
    cost(runs, definitions);
  };
})();
