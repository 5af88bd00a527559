// One small chart: a title, the newest value, and lines over the last minutes. Drawn by uPlot, in the page's colours.

import uPlot from "../vendor/uplot.js";
import { element } from "./dom.js";

const HEIGHT = 150;
const SPAN_S = 300;
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000];

/** The colour that a custom property of the page names. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Chart {
  #lines;
  #format;
  #floor;
  #whole;
  #plot = null;
  #data = [[]];

  /**
   * @param {string} title
   * @param {{label: string, tone: string}[]} lines - tone is a custom property of the page.
   * @param {(value: number) => string} format
   * @param {{floor: number, whole: boolean}} scale - the least top of the axis, and whether its steps are whole numbers.
   */
  constructor(title, lines, format, { floor, whole }) {
    this.#lines = lines;
    this.#format = format;
    this.#floor = floor;
    this.#whole = whole;
    this.now = element("p", { class: "chart-now" });
    this.box = element("div", { class: "chart-box", "aria-hidden": "true" });
    this.node = element("figure", { class: "chart" }, element("figcaption", {}, title), this.now, this.box);
    new ResizeObserver(() => this.#resize()).observe(this.box);
  }

  /** Draw. @param {number[][]} data - seconds since 1970, then the values of each line; null where there is none. */
  show(data) {
    this.#data = data;
    this.now.replaceChildren(...this.#lines.map(({ label, tone }, at) => this.#newest(label, tone, data[at + 1])));
    if (this.#plot) this.#plot.setData(data);
    else this.#make();
  }

  /** Draw anew, in colours that have changed. */
  restyle() {
    this.#plot?.destroy();
    this.#plot = null;
    if (this.#data.length > 1) this.#make();
  }

  #newest(label, tone, values) {
    const value = values.findLast((each) => each != null);
    const swatch = element("i", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = `var(${tone})`;
    return element("span", {}, element("strong", {}, value == null ? "–" : this.#format(value)), " ",
      this.#lines.length > 1 ? swatch : null, label);
  }

  #resize() {
    if (this.#plot && this.box.clientWidth) this.#plot.setSize({ width: this.box.clientWidth, height: HEIGHT });
  }

  #make() {
    if (!this.box.clientWidth) return;
    const axis = { stroke: colour("--faint"), font: "11px system-ui", grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const options = {
      width: this.box.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      padding: [8, 18, 0, 0],
      scales: { x: { range: (_, first, last) => [last - SPAN_S, last] }, y: { range: (_, low, high) => [0, Math.max(high * 1.15, this.#floor)] } },
      axes: [
        { ...axis, grid: { show: false }, size: 24, incrs: [60, 120], values: clock },
        { ...axis, size: 50, space: 34, incrs: this.#whole ? WHOLE : undefined, values: (_, ticks) => ticks.map(this.#format) },
      ],
      series: [{}, ...this.#lines.map(({ tone }, at) => ({
        stroke: colour(tone), width: 1.75, spanGaps: true, points: { show: false }, fill: at ? undefined : `${colour(tone)}1f`,
      }))],
    };
    this.#plot = new uPlot(options, this.#data, this.box);
  }
}

function clock(_, ticks) {
  return ticks.map((tick) => new Date(tick * 1000).toTimeString().slice(0, 5));
}
