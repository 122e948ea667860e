// Drawing functions of the explorer: elements, numbers as text, colours, ticks, surfaces on a canvas, curves as SVG.
// They do not depend on results.

const CIVIDIS = [
  [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116],
  [195, 179, 105], [225, 204, 85], [254, 232, 56],
];

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, String(value));
  }
  element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

export function svg(tag, attributes = {}, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  if (text !== undefined) element.textContent = text;
  return element;
}

export function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const values = new Float32Array(bytes.length / 4);
  for (let i = 0; i < values.length; i++) values[i] = view.getFloat32(4 * i, true);
  return { shape: packed.shape, values };
}

export function format(value) {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const text = size !== 0 && (size >= 1e5 || size < 1e-3) ? Number(value.toPrecision(3)).toExponential() : String(Number(value.toPrecision(3)));
  return text.replace("-", "−").replace("e+", "e");
}

export const percent = (value) => (Number.isFinite(value) ? `${(100 * value).toFixed(value < 0.1 && value > 0 ? 1 : 0)} %` : "–");

export function extent(values) {
  let [low, high, least] = [Infinity, -Infinity, Infinity];
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
    if (value > 0 && value < least) least = value;
  }
  return { low, high, least };
}

export function nearest(sorted, value) {
  let best = 0;
  for (let i = 1; i < sorted.length; i++) if (Math.abs(sorted[i] - value) < Math.abs(sorted[best] - value)) best = i;
  return best;
}

export function ramp(share) {
  const place = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const i = Math.min(Math.floor(place), CIVIDIS.length - 2);
  return CIVIDIS[i].map((from, channel) => Math.round(from + (place - i) * (CIVIDIS[i + 1][channel] - from)));
}

export const readable = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#000" : "#fff");

// A few round numbers between two values.
export function ticks(low, high, wanted = 5) {
  const raw = (high - low) / wanted;
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

/** Paint bands of a surface, values (y.length, x.length), into `image`, with darker lines between bands. */
export function paint(image, x, y, values, band, shade, dense) {
  const { width, height } = image;
  const nx = x.length;
  const cells = (axis, count, flip) => {
    const places = [];
    const rises = axis[axis.length - 1] >= axis[0];
    for (let p = 0; p < count; p++) {
      const share = flip ? 1 - p / (count - 1) : p / (count - 1);
      const at = axis[0] + share * (axis[axis.length - 1] - axis[0]);
      let i = 0;
      while (i < axis.length - 2 && (rises ? axis[i + 1] <= at : axis[i + 1] >= at)) i++;
      places.push([i, axis.length > 1 ? (at - axis[i]) / (axis[i + 1] - axis[i]) : 0]);
    }
    return places;
  };
  const [across, down] = [cells(x, width, false), cells(y, height, true)];
  const bands = new Int16Array(width * height);
  for (let q = 0; q < height; q++) {
    const [j, v] = down[q];
    const [below, above] = [j * nx, Math.min(j + 1, y.length - 1) * nx];
    for (let p = 0; p < width; p++) {
      const [i, u] = across[p];
      const k = Math.min(i + 1, nx - 1);
      const value =
        (1 - v) * ((1 - u) * values[below + i] + u * values[below + k]) + v * ((1 - u) * values[above + i] + u * values[above + k]);
      bands[q * width + p] = Number.isFinite(value) ? band(value) : -1;
    }
  }
  for (let q = 0; q < height; q++) {
    for (let p = 0; p < width; p++) {
      const here = bands[q * width + p];
      let rgb = here < 0 ? ((p + q) % Math.round(8 * dense) < 2 * dense ? [90, 90, 90] : [170, 170, 170]) : shade(here);
      const edge = (p + 1 < width && bands[q * width + p + 1] !== here) || (q + 1 < height && bands[(q + 1) * width + p] !== here);
      if (edge) rgb = rgb.map((channel) => 0.72 * channel);
      image.data.set([...rgb, 255], 4 * (q * width + p));
    }
  }
}

/** Stroke a path twice, in black and narrower in a colour, so that it is visible on any background. */
export function outlined(context, width, color, path) {
  for (const [wide, stroke] of [[2 * width, "#000"], [width, color]]) {
    context.lineWidth = wide;
    context.strokeStyle = stroke;
    context.beginPath();
    path();
    context.stroke();
  }
}

// A curve on axes with round numbers; `y` may be logarithmic.
export function chart({ label, xs, lines, band, marks = [], dots = [], log, xlabel, ylabel }) {
  const [w, t, left, bottom] = [420, 240, 66, 40];
  const finite = (values) => values.filter((v) => Number.isFinite(v) && (!log || v > 0));
  const all = finite([...lines.flatMap((line) => [...line.y]), ...(band ? [...band[1]] : []), ...dots.map((d) => d.y)]);
  const xall = [...xs, ...dots.flatMap((d) => [d.x, d.low, d.high])].filter(Number.isFinite);
  const [x0, x1] = [Math.min(...xall), Math.max(...xall)];
  let [y0, y1] = [Math.min(...all), Math.max(...all)];
  if (log) [y0, y1] = [Math.log10(Math.max(y0, y1 * 1e-6)), Math.log10(y1)];
  if (dots.length) [y0, y1] = [0.4, Math.max(...dots.map((d) => d.y)) + 0.6];
  const grow = 0.04 * (x1 - x0 || 1);
  const px = (v) => left + ((v - x0 + grow) / (x1 - x0 + 2 * grow || 1)) * (w - left - 8);
  const scaled = (v) => (log ? Math.log10(Math.max(v, 10 ** y0)) : v);
  const py = (v) => t - bottom - ((scaled(v) - y0) / (y1 - y0 || 1)) * (t - bottom - 10);
  const picture = svg("svg", { viewBox: `0 0 ${w} ${t}`, role: "img", "aria-label": label });
  const line = (x, y, u, v, kind) => picture.append(svg("line", { x1: x, y1: y, x2: u, y2: v, class: kind }));
  const text = (x, y, words, anchor) => picture.append(svg("text", { x, y, "text-anchor": anchor }, words));
  for (const tick of ticks(x0, x1)) {
    line(px(tick), 6, px(tick), t - bottom, "grid");
    text(px(tick), t - bottom + 14, format(tick), "middle");
  }
  const rising = log ? [...Array(Math.floor(y1) - Math.ceil(y0) + 1).keys()].map((k) => Math.ceil(y0) + k) : ticks(y0, y1, 4);
  const every = log ? Math.ceil(rising.length / 6) : 1;
  for (const tick of dots.length ? [] : rising.filter((_, k) => k % every === 0)) {
    const at = log ? 10 ** tick : tick;
    line(left, py(at), w - 8, py(at), "grid");
    text(left - 5, py(at) + 4, format(at), "end");
  }
  text((left + w) / 2, t - 6, xlabel, "middle");
  const up = svg("text", { x: 12, y: (t - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(t - bottom) / 2})` }, ylabel);
  picture.append(up);
  const path = (x, y) => x.map((v, i) => [v, y[i]]).filter(([, v]) => Number.isFinite(v)).map(([a, b]) => `${px(a).toFixed(1)},${py(b).toFixed(1)}`);
  if (band) {
    const points = [...path(xs, band[1]), ...path(xs, band[0]).reverse()];
    picture.append(svg("polygon", { points: points.join(" "), class: "band" }));
  }
  for (const one of lines) picture.append(svg("polyline", { points: path(xs, [...one.y]).join(" "), class: one.kind }));
  for (const mark of marks) line(px(mark), t - bottom, px(mark), t - bottom - 14, "mark");
  for (const dot of dots) {
    if (Number.isFinite(dot.low)) line(px(dot.low), py(dot.y), px(dot.high), py(dot.y), "interval");
    picture.append(svg("circle", { cx: px(dot.x), cy: py(dot.y), r: 4, class: "point" }));
    text(left - 5, py(dot.y) + 4, dot.name, "end");
  }
  return picture;
}
