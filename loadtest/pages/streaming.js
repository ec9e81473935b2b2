// <locust-streaming>: the Streaming tab of Locust's page, and the page of its own at /streaming/. It asks /streaming/data for what is new.

import { Chart, clock, element, plain } from "./chart.js";

const BASE = new URL("../", import.meta.url);
const POLL_MS = 1000, IDLE_POLL_MS = 2500;
const PERCENTILES = ["p50", "p90", "p99"];
const COLOURS = { p50: "--one", p90: "--two", p99: "--three" };
const latency = (metric) => PERCENTILES.map((name) => ({ name, column: `${metric}_${name}_ms`, colour: COLOURS[name] }));
const CHARTS = [
  { title: "Time to first token", unit: "ms", series: latency("ttft") },
  { title: "Token latency", unit: "ms", series: latency("token_latency"), note: "only for acknowledged tokens" },
  { title: "Inter-token latency (ITL)", unit: "ms", series: latency("itl") },
  { title: "Stop latency", unit: "ms", series: latency("stop_latency"), note: "only where conversations are stopped" },
  { title: "Tokens per second", unit: "1/s", series: [{ name: "received", column: "tokens_per_s", colour: "--one" }] },
  {
    title: "Connections", unit: "", series: [
      { name: "opening", column: "opening", colour: "--two" }, { name: "open", column: "open", colour: "--one" },
      { name: "streaming", column: "streaming", colour: "--four" }, { name: "failed so far", column: "failed", colour: "--three" },
      { name: "server: open", column: "server_open", colour: "--one", dashed: true },
      { name: "server: streaming", column: "server_streaming", colour: "--four", dashed: true },
    ],
  },
  { title: "Receive lag (our own lateness)", unit: "ms", series: latency("receive_lag") },
  { title: "Generator: processor, busiest process", unit: "of a core", series: [{ name: "share", column: "cpu_share", colour: "--one" }] },
];
const PHASES = {
  ready: "no run yet", "warm-up": "warming up", steady: "running", draining: "draining: conversations may finish", ended: "ended",
};
const REPORT_STATES = { waiting: "report waits until nothing is measured", building: "report is being built", failed: "no report" };

class LocustStreaming extends HTMLElement {
  connectedCallback() {
    this.followed = "";
    this.rows = { second: [] };
    this.columns = ["second"];
    this.at = null;
    this.needed = {};
    this.stopped = new AbortController();
    const root = this.shadowRoot || this.attachShadow({ mode: "open" });
    root.replaceChildren(element("link", { rel: "stylesheet", href: new URL("assets/streaming.css", BASE).href }));
    this.top = element("section", { class: "top", "aria-live": "polite" });
    this.tiles = element("dl", { class: "tiles" });
    this.plots = element("div", { class: "charts" });
    this.under = element("div", { class: "under" });
    this.trouble = element("p", { class: "trouble", role: "alert", hidden: true });
    root.append(element("div", { class: "streaming" }, this.trouble, this.top, this.tiles, this.plots, this.under));
    this.charts = CHARTS.map((one) => new Chart(this.plots, { ...one, hovered: (second) => this.hover(second) }));
    document.addEventListener("visibilitychange", () => { if (!document.hidden) { this.poll(); } }, { signal: this.stopped.signal });
    this.shown = {};
    this.dress();
    this.poll();
  }

  disconnectedCallback() {
    this.stopped.abort();
    clearTimeout(this.timer);
    for (const chart of this.charts) { chart.close(); }
  }

  // As dark as what is around it: Locust's page has a switch of its own.
  dress() {
    const ground = getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g) || [255, 255, 255];
    const light = 0.2126 * ground[0] + 0.7152 * ground[1] + 0.0722 * ground[2];
    const theme = light < 128 && ground[3] !== "0" ? "dark" : "light";
    if (this.dataset.theme !== theme) { this.dataset.theme = theme; for (const chart of this.charts) { chart.draw(); } }
  }

  async poll() {
    clearTimeout(this.timer);
    if (this.asking || document.hidden || this.stopped.signal.aborted) { return; }
    this.asking = true;
    let pause = POLL_MS;
    try {
      const seconds = this.rows.second;
      const since = seconds.length ? seconds[seconds.length - 1] : -1;
      const address = new URL(`data?part=${encodeURIComponent(this.followed)}&since=${since}`, BASE);
      const answer = await fetch(address, { signal: this.stopped.signal });
      if (answer.redirected) { location.reload(); return; } // logged out
      if (!answer.ok) { throw new Error(`${answer.status} ${answer.statusText}`); }
      this.take(await answer.json());
      if (this.data.phase === "ready" || this.data.phase === "ended") { pause = IDLE_POLL_MS; }
      this.trouble.hidden = true;
    } catch (error) {
      if (this.stopped.signal.aborted) { return; }
      this.trouble.textContent = `Locust does not answer (${error.message}); what is shown is what it said last. Asking again.`;
      this.trouble.hidden = false;
      pause = IDLE_POLL_MS;
    } finally { this.asking = false; }
    this.timer = setTimeout(() => this.poll(), pause);
  }

  take(data) {
    if (data.columns) {
      this.columns = data.columns;
      this.needed = data.samples_needed;
      this.windowS = data.window_s;
      this.keptS = data.kept_s;
      this.rows = Object.fromEntries(data.columns.map((name) => [name, []]));
      this.followed = data.part;
    }
    if (data.part !== this.followed) { this.followed = ""; this.rows = { second: [] }; return; }
    this.data = data;
    this.columns.forEach((name, place) => {
      const column = this.rows[name];
      for (const row of data.rows) { column.push(row[place]); }
      if (column.length > this.keptS) { column.splice(0, column.length - this.keptS); }
    });
    this.dress();
    for (const chart of this.charts) { chart.set(this.rows, this.at); }
    this.show();
  }

  hover(second) {
    this.at = second;
    for (const chart of this.charts) { chart.set(this.rows, second); }
  }

  // Only what has changed is made anew, so that a selection or a focus in it survives the next second.
  put(place, name, key, make) {
    const text = JSON.stringify(key);
    if (this.shown[name] === text) { return; }
    this.shown[name] = text;
    const made = make();
    made.dataset.name = name;
    const old = place.querySelector(`:scope > [data-name="${name}"]`);
    if (old) { old.replaceWith(made); } else { place.append(made); }
  }

  show() {
    const { data } = this;
    const final = data.final;
    this.put(this.top, "run", [data.run, data.phase, data.target, data.users], () => this.header(data));
    this.put(this.top, "verdict", [data.verdict, final, data.phase], () => final ? this.finalVerdict(final) : this.liveVerdict(data));
    this.put(this.tiles, "tiles", [data.table, final, data.connections, this.last("tokens_per_s")], () => this.tileList(data, final));
    this.put(this.under, "table", [data.table, final], () => this.table(data, final));
    this.put(this.under, "counts", [data.conversations, data.connections, data.tokens], () => this.counts(data));
    this.put(this.under, "errors", data.errors, () => this.errors(data.errors));
    this.put(this.under, "rules", [data.verdict, Boolean(final)], () => this.rules(data, final));
    this.put(this.under, "runs", data.runs, () => this.runs(data.runs));
  }

  last(column) { const values = this.rows[column] || []; return values.length ? values[values.length - 1] : null; }

  header(data) {
    const facts = [data.run ? element("b", {}, data.run) : "", element("span", { class: `phase ${data.phase}` }, PHASES[data.phase] || data.phase)];
    if (data.target) { facts.push(element("span", { class: "target" }, data.target)); }
    if (data.users) { facts.push(`${plain(data.users)} users`); }
    return element("p", { class: "facts" }, ...facts);
  }

  liveVerdict(data) {
    if (!data.verdict) { return element("div", { class: "verdict none" }, "Nothing is measured yet. Start a test, and its figures appear here second by second."); }
    const broken = data.verdict.rules.filter((rule) => rule.state === "broken");
    const box = element("div", { class: `verdict ${broken.length ? "invalid" : "valid"}` });
    const open = data.phase === "ended" ? "the report has the last word" : "as it stands";
    box.append(element("strong", {}, broken.length ? `Would not be valid (${open})` : `Valid so far (${open})`));
    if (data.verdict.warming_up && !broken.length) { box.append(" Still warming up: the figures begin anew when it is over."); }
    if (broken.length) { box.append(element("ul", {}, ...broken.map((rule) => element("li", {}, rule.sentence)))); }
    return box;
  }

  finalVerdict(final) {
    const box = element("div", { class: `verdict ${final.valid ? "valid" : "invalid"}` });
    box.append(element("strong", {}, final.valid ? "Valid run" : "Not valid: do not use these figures"), " Final figures of the steady time.");
    const sentences = [...final.reasons, ...final.findings];
    if (sentences.length) { box.append(element("ul", {}, ...sentences.map((text) => element("li", {}, text)))); }
    return box;
  }

  tileList(data, final) {
    const table = Object.fromEntries((final ? final.table : data.table).map((row) => [row.metric, row]));
    const value = (metric, name) => (table[metric] || {})[final ? `${name}_ms` : `recent_${name}_ms`];
    const tile = (title, text, unit, sub) => element("div", {}, element("dt", {}, title), element("dd", {}, text, unit ? element("small", {}, ` ${unit}`) : ""),
      element("dd", { class: "sub" }, sub));
    const when = final ? "whole steady time" : `last ${this.windowS || 10} s`;
    const { connections } = data;
    const server = connections.server_open === undefined ? "the server does not say" : `server: ${plain(connections.server_open)} open`;
    return element("div", { class: "row" },
      tile("Tokens per second", plain(final ? final.tokens_per_s : this.last("tokens_per_s")), "", `${plain(data.tokens)} in all`),
      tile("First token, p50", plain(value("ttft", "p50")), "ms", when),
      tile("Token latency, p99", plain(value("token_latency", "p99")), "ms", when),
      tile("ITL, p50", plain(value("itl", "p50")), "ms", when),
      tile("Stop latency, p50", plain(value("stop_latency", "p50")), "ms", when),
      tile("Connections open", plain(connections.open), "", `${plain(connections.failed)} failed, ${server}`));
  }

  table(data, final) {
    const rows = final ? final.table : data.table;
    const cell = (row, name, samples) => row[`${name}_ms`] === null || row[`${name}_ms`] === undefined
      ? element("td", { class: "none", title: `needs ${this.needed[name.slice(-3)]} values` }, `n/a (${plain(row[samples])})`)
      : element("td", {}, plain(row[`${name}_ms`]));
    const recent = final ? [] : PERCENTILES.map((name) => `recent_${name}`);
    const span = final ? "steady time (final)" : data.verdict && data.verdict.warming_up ? "since the start (warming up)" : "since the warm-up";
    const head = element("thead", {},
      element("tr", {}, element("td", {}), element("td", {}), ...(recent.length ? [element("th", { colspan: 3, scope: "colgroup" }, `last ${this.windowS} s, ms`)] : []),
        element("th", { colspan: 4, scope: "colgroup" }, `${span}, ms`), element("td", {})),
      element("tr", {}, ...["Metric", "Values", ...(recent.length ? PERCENTILES : []), ...PERCENTILES, "Max", "Definition"]
        .map((title) => element("th", { scope: "col", class: title === "Definition" ? "definition" : null }, title))));
    const body = element("tbody", {}, ...rows.map((row) => element("tr", {},
      element("th", { scope: "row" }, row.title), element("td", {}, plain(row.n)),
      ...recent.map((name) => cell(row, name, "recent_n")), ...PERCENTILES.map((name) => cell(row, name, "n")),
      element("td", {}, plain(row.max_ms)), element("td", { class: "definition" }, row.definition))));
    return element("section", {}, element("h2", {}, "Figures"), rows.length
      ? element("div", {}, element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Figures" }, element("table", {}, head, body)),
        element("dl", { class: "definitions" }, ...rows.flatMap((row) => [element("dt", {}, row.title), element("dd", {}, row.definition)])))
      : element("p", { class: "nothing" }, "none yet"));
  }

  counts(data) {
    const list = (title, counts) => element("div", {}, element("h3", {}, title), element("dl", { class: "counts" },
      ...Object.entries(counts).map(([name, count]) => element("div", {}, element("dt", {}, name.replace("_", ": ")), element("dd", {}, plain(count))))));
    return element("section", { class: "pair" }, list("Conversations", data.conversations), list("Connections", data.connections));
  }

  errors(errors) {
    const rows = errors.map((one) => element("tr", {}, element("th", { scope: "row" }, one.kind), element("td", {}, plain(one.count)),
      element("td", { class: "definition" }, one.meaning)));
    return element("section", {}, element("h2", {}, "Errors by kind"), errors.length
      ? element("div", { class: "wide" }, element("table", {}, element("thead", {}, element("tr", {},
        ...["Kind", "Count", "Meaning"].map((title) => element("th", { scope: "col" }, title)))), element("tbody", {}, ...rows)))
      : element("p", { class: "nothing" }, "none"));
  }

  rules(data, final) {
    if (!data.verdict || final) { return element("section", { hidden: true }); }
    const rows = data.verdict.rules.map((rule) => element("tr", {}, element("th", { scope: "row" }, rule.title),
      element("td", { class: `state ${rule.state.replaceAll(" ", "-")}` }, rule.state), element("td", { class: "text" }, rule.measured || "–"),
      element("td", { class: "text" }, rule.limit)));
    return element("section", {}, element("h2", {}, "Rules of validity, as they stand"), element("div", { class: "wide" }, element("table", {},
      element("thead", {}, element("tr", {}, ...["Rule", "State", "Measured", "Limit"].map((title) => element("th", { scope: "col", class: "text" }, title)))),
      element("tbody", {}, ...rows))));
  }

  runs(runs) {
    const link = (run, file, text, download) => element("a", {
      href: new URL(`runs/${encodeURIComponent(run)}/${file.split("/").map(encodeURIComponent).join("/")}${download ? "?download" : ""}`, BASE).href,
      target: download ? null : "_blank", rel: "noopener", download: download ? "" : null,
    }, text);
    const size = (bytes) => bytes < 1e6 ? `${plain(Math.max(1, Math.round(bytes / 1e3)))} kB` : `${plain(bytes / 1e6)} MB`;
    const items = runs.map((run) => element("li", {}, element("b", {}, run.name), " ",
      run.state === "ready" ? element("span", { class: "reports" }, link(run.name, "report.html", "Report", false), link(run.name, "report.html", "download it", true))
        : element("span", { class: run.state }, REPORT_STATES[run.state] + (run.sentence ? `: ${run.sentence}` : "")),
      element("details", {}, element("summary", {}, "Data"), element("ul", { class: "files" },
        ...run.files.map((file) => element("li", {}, link(run.name, file.name, file.name, true), ` ${size(file.size_bytes)}`))))));
    return element("section", {}, element("h2", {}, "Runs of this page: reports and data"), runs.length
      ? element("ul", { class: "runs" }, ...items) : element("p", { class: "nothing" }, "none has ended yet"));
  }
}

customElements.define("locust-streaming", LocustStreaming);

// In Locust's own page: a way to the figures before a test runs, and its parameters in sight at once.
if (document.getElementById("root")) {
  const link = element("a", { href: BASE.href, target: "_blank", rel: "noopener" }, "Streaming");
  link.style.cssText = "position:fixed;left:16px;bottom:12px;z-index:9;padding:4px 12px;border-radius:6px;background:#15803d;color:#fff;"
    + "font:500 14px Roboto,system-ui,sans-serif;text-decoration:none";
  document.body.append(link);
  let opened = false;
  const look = () => {
    link.hidden = document.querySelector("[role=tablist]") !== null; // there is a tab for it then
    const summary = opened ? null
      : [...document.querySelectorAll(".MuiAccordionSummary-root")].find((one) => one.textContent.includes("Custom parameters"));
    if (summary) { opened = true; if (summary.getAttribute("aria-expanded") === "false") { summary.click(); } }
  };
  new MutationObserver(look).observe(document.getElementById("root"), { childList: true, subtree: true });
  look();
}
