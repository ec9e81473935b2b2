// A line chart over the seconds of a run, on a canvas. Colours are CSS variables of the page, so that light and dark are its own.

const SECOND_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
const MARGIN = { left: 52, right: 12, top: 8, bottom: 22 };

/** The step of about `wanted` round ticks over `span`: 1, 2 or 5 times a power of ten. */
export function niceStep(span, wanted) {
  const rough = span / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const part = rough / power;
  return (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10) * power;
}

/** 0:05, 12:30, 1:02:03 */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return (hours ? hours + ":" + two(minutes) : String(minutes)) + ":" + two(whole % 60);
}

/** A number as people write it, to three or four digits: 0.0412, 3.2, 1 250. */
export function plain(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) { return "–"; }
  const size = Math.abs(value);
  if (size >= 1000) { return Math.round(value).toString().replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f"); }
  if (size === 0 || Number.isInteger(value)) { return String(value); }
  return String(Number(value.toPrecision(3)));
}

export class Chart {
  /** `series`: [{name, column, colour (a CSS variable), dashed}]; `unit` follows each value; `hovered` is told the second under the pointer. */
  constructor(place, { title, unit, series, hovered, note }) {
    this.series = series;
    this.unit = unit;
    this.hovered = hovered;
    this.rows = { second: [] };
    this.at = null;
    this.asked = 0;
    this.figure = element("figure", { class: "chart" });
    this.legend = element("ul", { class: "legend" });
    this.canvas = element("canvas", { tabindex: "0", role: "img" });
    this.empty = element("p", { class: "nothing" }, note || "");
    const area = element("div", { class: "area" }, this.canvas, this.empty);
    this.figure.append(element("figcaption", {}, title, unit ? element("span", { class: "unit" }, unit) : ""), this.legend, area);
    this.title = title;
    this.values = series.map((one) => {
      const value = element("b", {}, "–");
      const swatch = element("i", { class: one.dashed ? "dashed" : "" });
      swatch.style.setProperty("--colour", `var(${one.colour})`);
      this.legend.append(element("li", {}, swatch, one.name, " ", value));
      return value;
    });
    place.append(this.figure);
    this.canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.hovered(null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("blur", () => this.hovered(null));
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.canvas);
  }

  close() { this.watch.disconnect(); cancelAnimationFrame(this.asked); }

  set(rows, at) {
    this.rows = rows;
    this.at = at;
    this.draw();
  }

  draw() {
    cancelAnimationFrame(this.asked);
    this.asked = requestAnimationFrame(() => this.paint());
  }

  point(x) {
    const seconds = this.rows.second;
    if (!seconds.length || !this.scale) { return; }
    const wanted = this.scale.first + (x - MARGIN.left) / this.scale.width * (this.scale.last - this.scale.first);
    this.hovered(seconds[nearest(seconds, wanted)]);
  }

  key(event) {
    const seconds = this.rows.second;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") { this.hovered(null); }
    if (!step || !seconds.length) { return; }
    event.preventDefault();
    const here = this.at === null ? seconds.length - 1 : nearest(seconds, this.at);
    this.hovered(seconds[Math.max(0, Math.min(seconds.length - 1, here + step))]);
  }

  paint() {
    const { canvas, rows } = this;
    const seconds = rows.second, count = seconds.length;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !height) { return; }
    const dense = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
      canvas.width = Math.round(width * dense);
      canvas.height = Math.round(height * dense);
    }
    const style = getComputedStyle(this.figure);
    const pen = canvas.getContext("2d");
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    pen.clearRect(0, 0, width, height);
    const index = count ? (this.at === null ? count - 1 : nearest(seconds, this.at)) : -1;
    this.tell(index);
    let top = 0, some = false;
    for (const one of this.series) {
      for (const value of rows[one.column] || []) { if (value !== null) { some = true; if (value > top) { top = value; } } }
    }
    this.empty.hidden = some;
    const plot = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    const step = niceStep(top || 1, Math.max(2, Math.min(5, Math.floor(plot.height / 32))));
    const high = Math.max(step, Math.ceil((top || 1) / step - 1e-9) * step);
    const first = count ? seconds[0] : 0, last = Math.max(first + 30, count ? seconds[count - 1] : 0);
    this.scale = { first, last, width: plot.width };
    const x = (second) => MARGIN.left + (second - first) / (last - first) * plot.width;
    const y = (value) => MARGIN.top + (1 - value / high) * plot.height;
    this.axes(pen, style, { x, y, step, high, first, last, plot, height });
    for (const one of this.series) { this.line(pen, style, one, x, y); }
    if (this.at !== null && index >= 0) {
      pen.strokeStyle = style.getPropertyValue("--soft");
      pen.setLineDash([]);
      pen.lineWidth = 1;
      const here = Math.round(x(seconds[index])) + 0.5;
      pen.beginPath(); pen.moveTo(here, MARGIN.top); pen.lineTo(here, MARGIN.top + plot.height); pen.stroke();
      for (const one of this.series) {
        const value = (rows[one.column] || [])[index];
        if (value === null || value === undefined) { continue; }
        pen.fillStyle = style.getPropertyValue(one.colour);
        pen.beginPath(); pen.arc(x(seconds[index]), y(value), 3.5, 0, 2 * Math.PI); pen.fill();
      }
    }
  }

  axes(pen, style, { x, y, step, high, first, last, plot, height }) {
    pen.font = "11px system-ui, sans-serif";
    pen.setLineDash([]);
    pen.lineWidth = 1;
    pen.strokeStyle = style.getPropertyValue("--line");
    pen.fillStyle = style.getPropertyValue("--soft");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (let value = 0; value <= high + step / 2; value += step) {
      const at = Math.round(y(value)) + 0.5;
      pen.beginPath(); pen.moveTo(MARGIN.left, at); pen.lineTo(MARGIN.left + plot.width, at); pen.stroke();
      pen.fillText(plain(Number(value.toPrecision(6))), MARGIN.left - 6, at);
    }
    pen.textAlign = "center";
    pen.textBaseline = "alphabetic";
    const wanted = (last - first) / Math.max(2, plot.width / 70);
    const ticks = SECOND_STEPS.find((one) => one >= wanted) || 3600 * Math.ceil(wanted / 3600);
    for (let second = Math.ceil(first / ticks) * ticks; second <= last; second += ticks) {
      const at = x(second);
      if (at < MARGIN.left + plot.width - 4 || second === first) { pen.fillText(clock(second), Math.max(MARGIN.left + 8, at), height - 6); }
    }
  }

  line(pen, style, one, x, y) {
    const values = this.rows[one.column] || [], seconds = this.rows.second;
    pen.strokeStyle = pen.fillStyle = style.getPropertyValue(one.colour);
    pen.lineWidth = 1.6;
    pen.lineJoin = "round";
    pen.setLineDash(one.dashed ? [5, 4] : []);
    pen.beginPath();
    let drawing = false;
    for (let at = 0; at < seconds.length; at += 1) {
      const value = values[at];
      if (value === null || value === undefined) { drawing = false; continue; }
      const here = x(seconds[at]), up = y(value);
      if (drawing) { pen.lineTo(here, up); }
      else {
        pen.moveTo(here, up);
        const next = values[at + 1];
        if (next === null || next === undefined) { pen.lineTo(here + 1.5, up); }
      }
      drawing = true;
    }
    pen.stroke();
    pen.setLineDash([]);
  }

  tell(index) {
    const told = this.series.map((one, place) => {
      const value = index < 0 ? null : (this.rows[one.column] || [])[index];
      this.values[place].textContent = plain(value);
      return `${one.name} ${plain(value)}`;
    });
    const when = index < 0 ? "" : ` at ${clock(this.rows.second[index])}`;
    this.canvas.setAttribute("aria-label", `${this.title}${when}: ${told.join(", ")} ${this.unit}`);
  }
}

/** An element with attributes and children; children that are no elements become text, never markup. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) { made.setAttribute(key, value === true ? "" : value); }
  }
  made.append(...children);
  return made;
}

function nearest(sorted, wanted) {
  let low = 0, high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < wanted) { low = middle + 1; } else { high = middle; }
  }
  return low > 0 && wanted - sorted[low - 1] < sorted[low] - wanted ? low - 1 : low;
}
