// A small chart of the last minutes: one line, its latest value, and its greatest.

import { make } from "./dom.js";
import { label, phrase, say } from "./language.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 60;
/** Milliseconds that a chart shows, and after which a line has a gap. */
export const SPAN = 300_000;
const GAP = 15_000;

export class Chart {
  #value = make("b", "value");
  #most = make("span", "most");
  #area = drawn("path", { class: "area" });
  #curve = drawn("path", { class: "curve" });
  #picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  #title;
  #format;
  #read;

  /**
   * @param {string} title the key of its words
   * @param {(sample: object) => number} read what it shows of a sample
   * @param {(value: number) => string} format
   */
  constructor(title, read, format) {
    this.#title = title;
    this.#read = read;
    this.#format = format;
    this.#picture.append(this.#area, this.#curve);
    const caption = make("figcaption", "", say(make("span"), title), this.#value);
    this.element = make("figure", "panel chart", caption, this.#picture, this.#most);
  }

  /** Show samples, each with the moment `at`, oldest first. */
  draw(samples, now) {
    const points = samples.map((sample) => [sample.at, this.#read(sample)]);
    const latest = points.at(-1)?.[1] ?? 0;
    const greatest = Math.max(0, ...points.map(([, value]) => value));
    const top = ceiling(greatest);
    const x = (at) => ((at - now + SPAN) / SPAN) * WIDTH;
    const y = (value) => HEIGHT - 1 - (value / top) * (HEIGHT - 4);
    const parts = runs(points).map((run) => run.map(([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`));
    this.#curve.setAttribute("d", parts.map((run) => `M${run.join("L")}`).join(""));
    const foot = (run) => `M${run[0].split(" ")[0]} ${HEIGHT}L${run.join("L")}L${run.at(-1).split(" ")[0]} ${HEIGHT}Z`;
    this.#area.setAttribute("d", parts.map(foot).join(""));
    this.#value.textContent = this.#format(latest);
    const given = { value: () => this.#format(latest), most: () => this.#format(greatest) };
    say(this.#most, "most", given);
    label(this.#picture, "chart", { ...given, what: () => phrase(this.#title) });
  }
}

/** Points without the pauses between them, when nothing was asked. */
function runs(points) {
  const found = [];
  for (const [number, point] of points.entries()) {
    if (!number || point[0] - points[number - 1][0] > GAP) found.push([]);
    found.at(-1).push(point);
  }
  return found;
}

/** A round number that is not below a value. */
function ceiling(value) {
  if (value <= 1) return 1;
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * step).find((each) => each >= value);
}

function drawn(tag, attributes) {
  const element = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
