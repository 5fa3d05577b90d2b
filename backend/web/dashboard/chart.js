// A chart of the last quarter of an hour: lines or bars in SVG, a cursor for mouse and keys, a table beside it.

import { duration, say } from "/dashboard/words.js";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 20;

export function make(kind, attributes = {}, ...children) {
  const element = ["svg", "path", "line", "text", "g"].includes(kind)
    ? document.createElementNS(SVG, kind) : document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Sets a text only where it differs: what does not change is neither drawn nor read out again.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// `spec`: title and series by key of words; each series `of` a point; `spell` for values; `stacked` bars;
// `log` for a scale of decades; `least` the top of the scale at least.
export class Chart {
  constructor(spec) {
    this.spec = spec;
    this.cursor = null;
    this.picture = null;
    this.title = make("h2");
    this.legend = make("ul", { class: "legend" });
    this.values = spec.series.map(series => {
      const value = make("b"), label = make("span");
      this.legend.append(make("li", { class: series.colour }, label, " ", value));
      return { value, label };
    });
    this.grid = make("g");
    this.marks = spec.series.flatMap(series => this._marks(series));
    this.line = make("line", { class: "cursor", y1: TOP, visibility: "hidden" });
    this.plot = make("svg", { class: "plot", tabindex: "0", role: "slider", "aria-valuemin": "0" }, this.grid, ...this.marks, this.line);
    this.readout = make("p", { class: "readout", "aria-hidden": "true" });
    this.body = make("tbody");
    this.head = make("thead");
    this.caption = make("caption", { class: "empty" });
    this.summary = make("summary");
    const table = make("div", { class: "scroll" }, make("table", {}, this.caption, this.head, this.body));
    this.details = make("details", {}, this.summary, table);
    this.figure = make("figure", { class: "card chart", id: `chart-${spec.name}` },
      make("figcaption", {}, this.title, this.readout, this.legend), this.plot, this.details);
    this._listen();
  }

  _marks(series) {
    if (this.spec.stacked) return [make("path", { class: `bar ${series.colour}` })];
    const marks = [make("path", { class: `line ${series.colour}` })];
    if (series.filled) marks.unshift(make("path", { class: `area ${series.colour}` }));
    return marks;
  }

  _listen() {
    this.details.addEventListener("toggle", () => this._tabulate());
    this.plot.addEventListener("pointermove", event => {
      const box = this.plot.getBoundingClientRect();
      this._point(this._slotAt(event.clientX - box.left));
    });
    this.plot.addEventListener("pointerleave", () => this._point(null));
    this.plot.addEventListener("blur", () => this._point(null));
    this.plot.addEventListener("keydown", event => {
      const last = (this.picture?.kept ?? 1) - 1;
      const here = this.cursor ?? last;
      const steps = { ArrowLeft: here - 1, ArrowRight: here + 1, PageUp: here - 12, PageDown: here + 12, Home: 0, End: last };
      if (event.key === "Escape") this._point(null);
      else if (event.key in steps) {
        event.preventDefault();
        this._point(Math.min(last, Math.max(0, steps[event.key])));
      }
    });
    new ResizeObserver(() => this._draw()).observe(this.plot);
  }

  // `picture`: `slots`, a point or undefined for each five seconds, the latest last; `seconds`, `kept`.
  show(picture) {
    this.picture = picture;
    this.translate();
    this._draw();
    this._tabulate();
  }

  translate() {
    const { spec } = this;
    write(this.title, say(spec.title));
    write(this.summary, say("table"));
    spec.series.forEach((series, index) => write(this.values[index].label, say(series.label)));
    this.plot.ariaLabel = say(spec.title);
    this._tell();
  }

  _values(slot) {
    const point = this.picture?.slots[slot];
    return this.spec.series.map(series => (point === undefined ? null : series.of(point)));
  }

  _slotAt(x) {
    if (this.picture === null) return null;
    const share = (x - LEFT) / (this.plot.clientWidth - LEFT - RIGHT);
    return Math.min(this.picture.kept - 1, Math.max(0, Math.round(share * (this.picture.kept - 1))));
  }

  _x(slot) {
    return LEFT + (slot / (this.picture.kept - 1)) * (this.plot.clientWidth - LEFT - RIGHT);
  }

  _draw() {
    const width = this.plot.clientWidth, height = this.plot.clientHeight;
    if (this.picture === null || width === 0) return;
    this.plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const slots = this.picture.slots.map((_, slot) => this._values(slot));
    const scale = this.spec.log ? decades(slots) : linear(slots, this.spec);
    const y = value => TOP + (1 - scale.share(value)) * (height - TOP - BOTTOM);
    this._drawGrid(scale, y, width, height);
    let mark = 0;
    const below = this.spec.stacked ? slots.map(() => 0) : null;
    this.spec.series.forEach((series, index) => {
      const values = slots.map(slot => slot[index]);
      if (below !== null) {
        this.marks[mark++].setAttribute("d", this._bars(values, below, y));
        return;
      }
      if (series.filled) this.marks[mark++].setAttribute("d", this._path(values, y, y(0)));
      this.marks[mark++].setAttribute("d", this._path(values, y, null));
    });
    this.line.setAttribute("y2", height - BOTTOM);
    this._place();
  }

  _drawGrid(scale, y, width, height) {
    const lines = scale.ticks.flatMap(tick => [
      make("line", { class: "gridline", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
      make("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, this.spec.spell(tick)),
    ]);
    const { kept, seconds } = this.picture;
    for (const minutes of [15, 10, 5, 0]) {
      const slot = kept - 1 - (minutes * 60) / seconds;
      const anchor = minutes === 0 ? "end" : minutes === 15 ? "start" : "middle";
      const text = minutes === 0 ? say("now") : `−${minutes} min`;
      lines.push(make("text", { x: this._x(Math.max(0, slot)), y: height - 5, "text-anchor": anchor }, text));
    }
    this.grid.replaceChildren(...lines);
  }

  // A line that breaks where nothing is known; down to `ground` where it is filled.
  _path(values, y, ground) {
    let path = "", open = false, x = 0;
    values.forEach((value, slot) => {
      if (value === null) {
        if (open && ground !== null) path += `V${ground}Z`;
        open = false;
        return;
      }
      x = this._x(slot).toFixed(1);
      const height = y(value).toFixed(1);
      if (open) path += `L${x} ${height}`;
      else path += ground === null ? `M${x} ${height}h0` : `M${x} ${ground}V${height}`;
      open = true;
    });
    return open && ground !== null ? `${path}V${ground}Z` : path;
  }

  _bars(values, below, y) {
    const width = Math.max(1, this._x(1) - this._x(0) - 0.5);
    let path = "";
    values.forEach((value, slot) => {
      if (!value) return;
      const top = y(below[slot] + value), height = y(below[slot]) - top;
      path += `M${(this._x(slot) - width / 2).toFixed(1)} ${top.toFixed(1)}h${width.toFixed(1)}v${height.toFixed(1)}h${(-width).toFixed(1)}z`;
      below[slot] += value;
    });
    return path;
  }

  _point(slot) {
    this.cursor = slot;
    this._place();
    this._tell();
  }

  _place() {
    const shown = this.cursor !== null && this.picture !== null;
    this.line.setAttribute("visibility", shown ? "visible" : "hidden");
    if (!shown) return;
    this.line.setAttribute("x1", this._x(this.cursor));
    this.line.setAttribute("x2", this._x(this.cursor));
  }

  // The values of the moment that is pointed at, or of the latest.
  _tell() {
    if (this.picture === null) return;
    const { kept, seconds } = this.picture;
    const slot = this.cursor ?? kept - 1;
    const values = this._values(slot);
    values.forEach((value, index) => write(this.values[index].value, value === null ? "–" : this.spec.spell(value)));
    const told = this.spec.series.map((series, index) =>
      `${say(series.label)} ${values[index] === null ? say("noData") : this.spec.spell(values[index])}`);
    const when = slot === kept - 1 ? say("now") : say("ago", { time: duration((kept - 1 - slot) * seconds) });
    this.plot.setAttribute("aria-valuemax", kept - 1);
    this.plot.setAttribute("aria-valuenow", slot);
    this.plot.setAttribute("aria-valuetext", `${when}: ${told.join(", ")}`);
    write(this.readout, this.cursor === null ? "" : when);
  }

  _tabulate() {
    if (!this.details.open || this.picture === null) return;
    const { kept, seconds } = this.picture, each = 60 / seconds;
    const cell = (kind, text, more = {}) => make(kind, more, text);
    const columns = this.spec.series.map(series => cell("th", say(series.label), { scope: "col", class: "number" }));
    this.head.replaceChildren(make("tr", {}, cell("th", say("minutesAgo"), { scope: "col" }), ...columns));
    write(this.caption, say(this.spec.worst ? "minuteWorst" : "minuteMean"));
    const rows = [];
    for (let end = kept; end > 0; end -= each) {
      const slots = Array.from({ length: Math.min(each, end) }, (_, back) => this._values(end - 1 - back));
      const cells = this.spec.series.map((_, index) => {
        const known = slots.map(slot => slot[index]).filter(value => value !== null);
        const sum = known.reduce((a, b) => a + b, 0);
        const value = !known.length ? null : this.spec.worst ? Math.max(...known) : sum / known.length;
        return cell("td", value === null ? "–" : this.spec.spell(value), { class: "number" });
      });
      rows.push(make("tr", {}, cell("th", String((kept - end) / each), { scope: "row" }), ...cells));
    }
    this.body.replaceChildren(...rows);
  }
}

// From nought to a round number above everything.
function linear(slots, { stacked, least = 1 }) {
  const tops = slots.map(slot => (stacked ? slot.reduce((a, b) => a + (b ?? 0), 0) : Math.max(0, ...slot)));
  const highest = Math.max(least, ...tops);
  const step = 10 ** Math.floor(Math.log10(highest));
  const top = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map(times => times * step).find(round => round >= highest * 0.999);
  return { ticks: [0, top / 2, top], share: value => Math.min(1, value / top) };
}

// Equal steps for equal factors: an answer of 2 ms and one of 900 s have room in one picture.
function decades(slots) {
  const known = slots.flat().filter(value => value !== null && value > 0);
  const low = Math.floor(Math.log10(known.length ? Math.min(...known) : 1));
  const high = Math.max(low + 2, Math.ceil(Math.log10((known.length ? Math.max(...known) : 1) * 1.001)));
  const every = high - low > 4 ? 2 : 1;
  const ticks = [];
  for (let power = low; power <= high; power += every) ticks.push(10 ** power);
  return { ticks, share: value => Math.max(0, (Math.log10(Math.max(value, 1e-9)) - low) / (high - low)) };
}

// A line without words, for a cell of a table.
export function spark(values, colour) {
  const known = values.map(value => value ?? 0);
  const top = Math.max(1, ...known);
  const points = known.map((value, index) => `${((index / (known.length - 1)) * 96).toFixed(1)} ${(19 - (value / top) * 17).toFixed(1)}`);
  const line = `M${points.join("L")}`;
  return make("svg", { class: "spark", viewBox: "0 0 96 20", preserveAspectRatio: "none", "aria-hidden": "true" },
    make("path", { class: `area ${colour}`, d: `${line}L96 20L0 20Z` }), make("path", { class: `line ${colour}`, d: line }));
}
