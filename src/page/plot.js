// A small line plot of the last five minutes, drawn as SVG so that the style sheet sets its colors.
// `draw` takes all points each time; no points are stored here.

/** Time span of a plot, seconds. */
export const SPAN = 300;

const HEIGHT = 104;
const MARGIN = { left: 66, right: 10, top: 8, bottom: 20 };

/** Round upper ends of the value axis, times a power of ten. */
const STEPS = [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10];

/** Maximum gap between points connected by a line, seconds. */
const GAP = 20;

function svg(name, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

function html(name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
}

function upperEnd(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * STEPS.find((step) => step * power >= value * (1 - 1e-9));
}

/** One plot: a `figure` with one line for each name in `series`. */
export class Plot {
  /**
   * `format` formats a value with its unit; `least` is the minimum upper end of the value axis; `dots` marks
   * every point.
   */
  constructor({ title, series, format, least, dots = false }) {
    Object.assign(this, { title, series, format, least, dots });
    /** A horizontal line: `{value, name}`. */
    this.mark = null;
    this.element = html("figure", "plot");
    const caption = html("figcaption", "");
    caption.append(html("span", "title", title));
    this.current = series.map((name, index) => {
      const value = html("span", "value", "–");
      const key = html("span", `key series-${index}`, name);
      caption.append(...(name === "" ? [value] : [key, value]));
      return value;
    });
    this.svg = svg("svg", { role: "img", height: HEIGHT });
    this.element.append(caption, this.svg);
  }

  /** Draws the points `{at, values}`, oldest first, as seen at `now`, seconds since 1970. */
  draw(now, points) {
    const width = this.svg.clientWidth || 320;
    const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
    const shown = points.filter(({ at }) => at > now - SPAN);
    const values = shown.flatMap((point) => point.values).filter((value) => value !== null);
    const top = upperEnd(Math.max(this.least, (this.mark?.value ?? 0) * 1.05, ...values));
    const x = (at) => MARGIN.left + inner.width * (1 - (now - at) / SPAN);
    const y = (value) => MARGIN.top + inner.height * (1 - value / top);

    const parts = [...this.axes(x, y, top, now)];
    if (this.mark !== null) {
      const [level, right] = [y(this.mark.value), width - MARGIN.right];
      parts.push(svg("line", { class: "mark", x1: MARGIN.left, x2: right, y1: level, y2: level }));
      parts.push(svg("text", { x: MARGIN.left + 4, y: level - 3 }, this.mark.name));
    }
    if (values.length === 0) {
      const middle = { x: x(now - SPAN / 2), y: y(top / 2) - 6 };
      parts.push(svg("text", { class: "none", "text-anchor": "middle", ...middle }, "no values yet"));
    }
    this.series.forEach((_, index) => parts.push(...this.line(shown, index, x, y)));
    this.svg.replaceChildren(...parts);
    this.describe(shown);
  }

  *axes(x, y, top, now) {
    const [left, right] = [x(now - SPAN), x(now)];
    for (const value of [0, top / 2, top]) {
      const at = y(value);
      yield svg("line", { class: "grid", x1: left, x2: right, y1: at, y2: at });
      yield svg("text", { "text-anchor": "end", x: left - 6, y: at + 4 }, this.format(value));
    }
    const labels = [["start", left, "5 min ago"], ["end", right, "now"]];
    if (right - left > 180) labels.push(["middle", x(now - SPAN / 2), "2.5 min"]);
    for (const [anchor, at, text] of labels) {
      yield svg("text", { "text-anchor": anchor, x: at, y: HEIGHT - 5 }, text);
    }
  }

  *line(shown, index, x, y) {
    let run = [];
    const runs = [run];
    let last = null;
    for (const { at, values } of shown) {
      const value = values[index];
      if (value === null || (last !== null && at - last > GAP)) {
        run = [];
        runs.push(run);
      }
      last = at;
      if (value !== null) run.push([x(at).toFixed(1), y(value).toFixed(1)]);
    }
    for (const spots of runs) {
      if (spots.length > 1) {
        yield svg("polyline", { class: `series-${index}`, points: spots.map((spot) => spot.join(",")).join(" ") });
      }
      if (!this.dots && spots.length !== 1) continue;
      for (const [cx, cy] of spots) yield svg("circle", { class: `series-${index}`, cx, cy, r: 2 });
    }
  }

  /** Describes the plot for screen readers. */
  describe(shown) {
    const descriptions = this.series.map((name, index) => {
      const values = shown.map((point) => point.values[index]).filter((value) => value !== null);
      const now = values.at(-1);
      this.current[index].textContent = now === undefined ? "–" : this.format(now);
      if (now === undefined) return `${name} no values yet`.trim();
      const [minimum, maximum] = [Math.min(...values), Math.max(...values)];
      return `${name} now ${this.format(now)}, minimum ${this.format(minimum)}, maximum ${this.format(maximum)}`.trim();
    });
    const mark = this.mark === null ? "" : `; a line marks ${this.mark.name}`;
    this.svg.setAttribute("aria-label", `${this.title}, last 5 minutes: ${descriptions.join("; ")}${mark}`);
  }
}
