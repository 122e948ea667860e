// The explorer of saved results: class bars, plane, spectrum and owners of one model, linked. The page and the Jupyter
// widget run the same module. Texts of result files become text nodes, never markup.

import { chart, extent, format, h, nearest, outlined, paint, percent, ramp, readable, unpack } from "./drawing.js";

const ROW = 26; // height of a row of the list, in pixels
const OWNERS = 8; // classes in the table of owners, in addition to the chosen one

let instances = 0;

/** Build an explorer of `data`, from `sharpness.explorer.payload`, in `root`; `changed` is called on every choice. */
export function explore(root, data, changed = () => {}) {
  const id = `sharpness-${++instances}`;
  const groups = Object.keys(data.groups);
  const names = ["all", ...groups, ...data.classes];
  const first = 1 + groups.length; // row of the first class
  const groupOf = new Array(names.length).fill("");
  groups.forEach((group) => data.groups[group].forEach((c) => (groupOf[first + c] = group)));
  const models = [...new Set(data.trainings.map((one) => one.model))];
  const arrays = new Map(); // unpacked when first shown
  const get = (packed) => {
    if (!arrays.has(packed)) arrays.set(packed, unpack(packed));
    return arrays.get(packed);
  };
  const state = {
    training: 0, quantity: 0, row: 0, point: null, levels: 12, order: "sharp", search: "", plane: 0, surface: "loss", scale: "all",
  };
  const planesOf = (t) => data.planes.filter((plane) => plane.of[t]);
  // Start with a training that has a plane, if there is one.
  state.training = Math.max(0, data.trainings.findIndex((_, t) => planesOf(t).length));

  // --- current choice

  const plane = () => planesOf(state.training)[state.plane] ?? planesOf(state.training)[0];
  const landscape = () => plane()?.of[state.training];
  const atPoint = (name, row) => {
    const { shape, values } = get(landscape()[name]);
    const [, ny, nx] = shape;
    const [i, j] = state.point;
    return values[(row * ny + j) * nx + i];
  };
  const accuracy = (row) => (state.point && landscape()?.accuracy ? atPoint("accuracy", row) : NaN);
  const base = (row) => get(landscape().base).values[row];
  const surfaceAt = (row) => {
    if (state.surface === "accuracy") return atPoint("accuracy", row);
    return atPoint("loss", row) - (state.surface === "rise" ? base(row) : 0);
  };

  // The quantity of the bars: a measure, or the surface at the chosen point.
  function bars() {
    if (state.quantity === "point" && state.point && landscape()) {
      const words = { loss: "loss", rise: "rise of the loss", accuracy: "accuracy" }[state.surface];
      return {
        title: `${words} at the chosen point`, name: words, flat: state.surface !== "accuracy", share: state.surface === "accuracy",
        samples: plane().samples, value: surfaceAt, low: () => NaN, high: () => NaN,
        mark: state.surface === "loss" ? base : () => NaN,
      };
    }
    const quantity = data.quantities[state.quantity] ?? data.quantities[0];
    const packed = quantity?.of[state.training];
    if (!packed) return null;
    const { shape, values } = get(packed);
    const at = (part) => (row) => values[part * shape[1] + row];
    return {
      title: quantity.title, name: quantity.name, share: quantity.share, flat: quantity.flat ?? !quantity.name.includes("accuracy"),
      samples: quantity.samples, value: at(0), low: at(1), high: at(2), mark: () => NaN,
    };
  }

  // Samples of the rows: those of the bars, or without bars those of a picture of this training.
  function samplesOf(shown) {
    const here = [...data.planes, ...data.lines].find((one) => one.of[state.training]);
    return (shown ?? plane() ?? here)?.samples;
  }

  // Rows of the list: all samples and groups first, then the classes that match the search.
  function listed(shown) {
    const wanted = state.search.trim().toLowerCase();
    let classes = data.classes.map((_, c) => first + c);
    if (wanted) {
      classes = classes.filter((row) => names[row].toLowerCase().includes(wanted) || groupOf[row].toLowerCase() === wanted);
    }
    const value = (row) => (Number.isNaN(shown.value(row)) ? -Infinity : (shown.flat ? 1 : -1) * shown.value(row));
    if (state.order === "sharp" && shown) classes.sort((a, b) => (value(b) > value(a)) - (value(b) < value(a)) || a - b);
    const samples = samplesOf(shown);
    if (state.order === "size" && samples) classes.sort((a, b) => samples[b] - samples[a] || a - b);
    if (state.order === "name") classes.sort((a, b) => names[a].localeCompare(names[b], undefined, { numeric: true }));
    return [...names.keys()].slice(0, first).concat(classes);
  }

  function describe(row) {
    const group = groupOf[row] ? `, ${groupOf[row]}` : "";
    return `${row === 0 ? "all samples" : row < first ? `group ${names[row]}` : names[row]}${group}`;
  }

  // --- the frame

  const select = (label, options, chosen, choose) => {
    const box = h("select", { id: `${id}-${label.replaceAll(" ", "-")}`, onchange: () => choose(box.value) });
    fill(box, options, chosen);
    return [h("label", { for: box.id }, label), box];
  };
  function fill(box, options, chosen) {
    box.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
    box.value = String(chosen);
  }
  const control = (pair) => h("div", { class: "control" }, ...pair);

  const modelBox = select("model", models.map((m, i) => [i, m]), 0, (value) => chooseModel(models[value]));
  const seedBox = select("seed", [], 0, (value) => update({ training: Number(value) }));
  const quantityBox = select("quantity", [], 0, (value) => update({ quantity: value === "point" ? value : Number(value) }));
  const rowBox = select("class or group", [], 0, (value) => update({ row: Number(value) }));
  const surfaceBox = select("plane shows", [], "loss", (value) => update({ surface: value }));
  const planeBox = select("plane", [], 0, (value) => update({ plane: Number(value) }));
  const planeControl = h("div", { class: "control" }, ...planeBox);
  const scaleBox = select(
    "levels of", [["all", "all models"], ["one", "this model"]], "all", (value) => update({ scale: value }),
  );
  const levelsInput = h("input", {
    id: `${id}-levels`, type: "range", min: 3, max: 30, value: state.levels,
    oninput: () => update({ levels: Number(levelsInput.value) }),
  });
  const orderBox = select(
    "order", [["sharp", "sharpest first"], ["size", "most samples first"], ["name", "by name"], ["file", "as saved"]],
    state.order, (value) => update({ order: value }),
  );
  const searchInput = h("input", {
    id: `${id}-search`, type: "search", placeholder: "class or group", autocomplete: "off",
    oninput: () => {
      list.scrollTop = 0;
      update({ search: searchInput.value });
    },
  });
  const theme = select("colours", [["auto", "system"], ["light", "light"], ["dark", "dark"]], root.dataset.theme ?? "auto", (value) => {
    root.dataset.theme = value;
    draw();
  });

  const barsTitle = h("h2", { id: `${id}-bars` });
  const head = h("div", { class: "head", "aria-hidden": "true" });
  const inner = h("div", { class: "inner", role: "presentation" });
  const list = h(
    "div",
    {
      class: "list", role: "listbox", tabindex: 0, "aria-labelledby": `${id}-bars`, onscroll: () => drawRows(),
      onkeydown: moveRow,
    },
    inner,
  );
  const scaleNote = h("p", { class: "note" });
  const canvas = h("canvas", {
    class: "plane", tabindex: 0, role: "application", "aria-describedby": `${id}-readout`, onclick: pick, onkeydown: movePoint,
  });
  const planeTitle = h("h2");
  const bar = h("canvas", { class: "colorbar", "aria-hidden": "true" });
  const barText = h("div", { class: "colorbar-text", "aria-hidden": "true" });
  const readout = h("p", { id: `${id}-readout`, class: "readout", "aria-live": "polite" });
  const center = h("button", { type: "button", onclick: () => update({ point: null, quantity: 0 }) }, "clear point");
  const planeSection = h(
    "section", { class: "panel", "aria-label": "plane of the loss" }, planeTitle, canvas, bar, barText, readout, center,
  );
  const spectrumTitle = h("h2");
  const spectrumPicture = h("div", { class: "picture" });
  const spectrumSection = h("section", { class: "panel", "aria-label": "spectrum" }, spectrumTitle, spectrumPicture);
  const lineTitle = h("h2");
  const linePicture = h("div", { class: "picture" });
  const lineSection = h("section", { class: "panel", "aria-label": "line" }, lineTitle, linePicture);
  const ownersTitle = h("h2");
  const ownersTable = h("div", { class: "table", tabindex: 0, role: "region", "aria-label": "owners of the sharpest directions" });
  const ownersSection = h("section", { class: "panel wide", "aria-label": "owners" }, ownersTitle,
    h(
      "p", { class: "note", id: `${id}-owners` },
      "Share of each class in the eigenvalues of the overall loss; the last row is its share of the images.",
    ),
    ownersTable,
  );
  const notes = h(
    "details", {}, h("summary", {}, "Provenance of these numbers"), ...data.notes.map((note) => h("p", { class: "note" }, note)),
  );

  root.classList.add("sharpness-explorer");
  root.dataset.theme ??= "auto";
  root.dataset.lmSuppressShortcuts = "true"; // arrow keys would choose cells of a JupyterLab notebook
  root.replaceChildren(
    h("h1", {}, data.title),
    h(
      "div", { class: "controls", role: "group", "aria-label": "display settings" },
      ...[modelBox, seedBox, rowBox, quantityBox].map(control), planeControl, control(surfaceBox),
      h("div", { class: "control" }, h("label", { for: levelsInput.id }, "levels"), levelsInput),
      control(scaleBox),
      control(theme),
    ),
    h(
      "div", { class: "panels" },
      h(
        "section", { class: "panel bars", "aria-label": "classes" }, barsTitle,
        h(
          "div", { class: "controls" }, h("div", { class: "control" }, h("label", { for: searchInput.id }, "search"), searchInput),
          control(orderBox),
        ),
        head, list, scaleNote,
      ),
      h("div", { class: "side" }, planeSection, spectrumSection, lineSection, ownersSection),
    ),
    notes,
  );

  // --- choices

  function chooseModel(model) {
    const run = data.trainings[state.training].run;
    const of = [...data.trainings.keys()].filter((t) => data.trainings[t].model === model);
    update({ training: of.find((t) => data.trainings[t].run === run) ?? of[0] });
  }

  function update(changes) {
    Object.assign(state, changes);
    // Points are indices of cells, which only agree between planes with the same grid.
    if (state.point && plane()) {
      state.point = [Math.min(state.point[0], plane().x.length - 1), Math.min(state.point[1], plane().y.length - 1)];
    }
    if (!landscape()) state.point = null;
    if (!state.point && state.quantity === "point") state.quantity = 0;
    if (state.surface === "accuracy" && landscape() && !landscape().accuracy) state.surface = "loss";
    draw();
    const training = data.trainings[state.training];
    const [i, j] = state.point ?? [];
    changed({
      model: training.model, run: training.run || null, subset: state.row === 0 ? null : names[state.row],
      quantity: state.quantity === "point" ? state.surface : data.quantities[state.quantity]?.name ?? null,
      point: state.point ? [plane().x[i], plane().y[j]] : null,
    });
  }

  function moveRow(event) {
    const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const rows = listed(bars());
    const now = rows.indexOf(state.row);
    const next = Math.min(Math.max(Math.max(now, 0) + moves[event.key], 0), rows.length - 1);
    update({ row: rows[next] });
    reveal(next);
  }

  function reveal(index) {
    if (index * ROW < list.scrollTop) list.scrollTop = index * ROW;
    else if ((index + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (index + 1) * ROW - list.clientHeight;
    drawRows();
  }

  function pick(event) {
    if (!plane()) return;
    const box = canvas.getBoundingClientRect();
    const { x, y } = plane();
    const across = (event.clientX - box.left) / box.width;
    const up = 1 - (event.clientY - box.top) / box.height;
    const at = (axis, share) => nearest(axis, axis[0] + share * (axis[axis.length - 1] - axis[0]));
    update({ point: [at(x, across), at(y, up)], quantity: "point" });
  }

  function movePoint(event) {
    if (!plane()) return;
    const { x, y } = plane();
    const middle = [nearest(x, 0), nearest(y, 0)];
    const [i, j] = state.point ?? middle;
    const moves = {
      ArrowLeft: [i - 1, j], ArrowRight: [i + 1, j], ArrowUp: [i, j + 1], ArrowDown: [i, j - 1], Home: middle, Enter: [i, j],
    };
    if (event.key === "Escape") update({ point: null, quantity: 0 });
    else if (event.key in moves) {
      const [a, b] = moves[event.key];
      update({
        point: [Math.min(Math.max(a, 0), x.length - 1), Math.min(Math.max(b, 0), y.length - 1)], quantity: "point",
      });
    } else return;
    event.preventDefault();
  }

  // --- drawing

  let view = { rows: [], shown: null, place: () => 0 };

  function draw() {
    drawControls();
    drawBars();
    drawPlane();
    drawSpectrum();
    drawLine();
    drawOwners();
  }

  function drawControls() {
    const training = data.trainings[state.training];
    modelBox[1].value = String(models.indexOf(training.model));
    const seeds = [...data.trainings.entries()].filter(([, one]) => one.model === training.model);
    fill(seedBox[1], seeds.map(([t, one]) => [t, one.run || "–"]), state.training);
    seedBox[1].disabled = seeds.length < 2;
    const quantities = [...data.quantities.entries()].filter(([, q]) => q.of[state.training]).map(([i, q]) => [i, q.title]);
    if (state.quantity !== "point" && !data.quantities[state.quantity]?.of[state.training]) {
      state.quantity = quantities[0]?.[0] ?? 0;
    }
    if (state.point) quantities.unshift(["point", `${state.surface} at the chosen point`]);
    fill(quantityBox[1], quantities.length ? quantities : [[0, "none here"]], state.quantity);
    // Built once, because there may be a thousand options.
    if (rowBox[1].length !== names.length) fill(rowBox[1], names.map((_, row) => [row, describe(row)]), state.row);
    rowBox[1].value = String(state.row);
    const surfaces = [["loss", "loss"], ["rise", "rise above the unperturbed loss"]];
    if (landscape()?.accuracy) surfaces.push(["accuracy", "accuracy"]);
    fill(surfaceBox[1], surfaces, state.surface);
    const planes = planesOf(state.training);
    planeControl.hidden = planes.length < 2;
    fill(planeBox[1], planes.map((one, i) => [i, `${one.title}: ${one.labels.join(", ")}`]), planes[state.plane] ? state.plane : 0);
    surfaceBox[1].disabled = !landscape();
    scaleBox[1].disabled = levelsInput.disabled = !landscape();
    levelsInput.setAttribute("aria-valuetext", `${state.levels} levels`);
  }

  function drawBars() {
    const shown = bars();
    barsTitle.textContent = shown ? `Classes: ${shown.title}` : "Classes";
    const rows = listed(shown);
    // One scale for all rows, whatever the search.
    const every = [...names.keys()];
    const values = shown ? every.flatMap((row) => [shown.value(row), shown.low(row), shown.high(row), shown.mark(row)]) : [];
    const own = extent(shown ? every.map(shown.value) : []);
    const { low, high, least } = extent(values);
    const log = !shown?.share && own.low > 0 && own.high > 50 * own.low;
    const from = log ? Math.log(least / 1.1) : Math.min(0, low);
    const to = log ? Math.log(high * 1.1) : Math.max(0, high);
    const place = (value) => Math.min(Math.max(((log ? Math.log(Math.max(value, 1e-300)) : value) - from) / (to - from || 1), 0), 1);
    view = { rows, shown, place, log, zero: log ? null : place(0) };
    head.replaceChildren(
      h("span", {}, "class"), h("span", {}, shown && Number.isFinite(low) ? `${format(log ? least : from)} to ${format(high)}` : ""),
      h("span", {}, "value"), h("span", { class: "accuracy" }, state.point && landscape()?.accuracy ? "accuracy" : ""),
    );
    root.classList.toggle("pointed", Boolean(state.point && landscape()?.accuracy));
    inner.style.height = `${rows.length * ROW}px`;
    const found = rows.length - first;
    const lines = [`${found.toLocaleString("en")} of ${data.classes.length.toLocaleString("en")} classes`];
    if (log) lines.push("logarithmic scale, so dots");
    if (shown && rows.some((row) => Number.isFinite(shown.low(row)))) lines.push("lines are 95 % intervals");
    if (shown && rows.some((row) => Number.isFinite(shown.mark(row)))) lines.push("ticks mark the unperturbed model");
    scaleNote.textContent = shown ? lines.join("; ") : "There are no per-class measurements for this training.";
    drawRows();
  }

  function drawRows() {
    const { rows, shown, place, log, zero } = view;
    const samples = samplesOf(shown);
    const seen = Math.ceil((list.clientHeight || 480) / ROW);
    // The scroll position may still be that of a longer list.
    const from = Math.max(0, Math.min(Math.floor(list.scrollTop / ROW), rows.length - seen) - 4);
    const to = Math.min(rows.length, from + seen + 8);
    const drawn = [];
    for (let i = from; i < to; i++) drawn.push(rowOf(i));
    inner.replaceChildren(...drawn);
    const active = rows.indexOf(state.row);
    if (active >= from && active < to) list.setAttribute("aria-activedescendant", `${id}-row-${state.row}`);
    else list.removeAttribute("aria-activedescendant");

    function rowOf(i) {
      const row = rows[i];
      const value = shown ? shown.value(row) : NaN;
      const track = h("span", { class: "track" });
      const box = (kind, a, b) => {
        const [left, right] = [Math.min(place(a), place(b)), Math.max(place(a), place(b))];
        track.append(h("span", { class: kind, style: { left: `${100 * left}%`, width: `${100 * (right - left)}%` } }));
      };
      const dot = (kind, a) => track.append(h("span", { class: kind, style: { left: `${100 * place(a)}%` } }));
      let told = `${describe(row)}${samples ? `, ${samples[row]} samples` : ""}`;
      if (Number.isFinite(value)) {
        if (log) dot("dot", value);
        else box("bar", 0, value);
        told += `, ${shown.title} ${format(value)}`;
        if (Number.isFinite(shown.low(row)) && Number.isFinite(shown.high(row))) {
          box("whisker", shown.low(row), shown.high(row));
          told += `, 95 % interval ${format(shown.low(row))} to ${format(shown.high(row))}`;
        }
        if (Number.isFinite(shown.mark(row))) dot("tick", shown.mark(row));
      }
      if (zero > 0 && zero < 1) dot("zero", 0);
      if (state.point && landscape()) {
        told += `; at the chosen point loss ${format(atPoint("loss", row))}, accuracy ${percent(accuracy(row))}`;
      }
      const group = groupOf[row] ? h("small", {}, ` ${groupOf[row]}`) : "";
      return h(
        "div",
        {
          id: `${id}-row-${row}`, class: `row${row < first ? " group" : ""}`, role: "option", "aria-selected": row === state.row,
          "aria-setsize": rows.length, "aria-posinset": i + 1, "aria-label": told, title: told,
          "data-row": row, "data-value": Number.isFinite(value) ? value : "", style: { top: `${i * ROW}px` },
          onclick: () => update({ row }),
        },
        h("span", { class: "name" }, names[row], group), track, h("span", { class: "value" }, format(value)),
        h("span", { class: "accuracy" }, state.point && landscape()?.accuracy ? percent(accuracy(row)) : ""),
      );
    }
  }

  // Values of the surface of a row, of one training.
  function surfaceOf(of, row) {
    const { shape, values } = get(state.surface === "accuracy" ? of.accuracy : of.loss);
    const size = shape.slice(1).reduce((a, b) => a * b, 1);
    const found = values.slice(row * size, (row + 1) * size);
    return state.surface === "rise" ? found.map((value) => value - get(of.base).values[row]) : found;
  }

  function drawPlane() {
    planeSection.hidden = !plane();
    if (!plane()) return;
    const { x, y, labels } = plane();
    const [nx, ny] = [x.length, y.length];
    const words = { loss: "Loss", rise: "Rise of the loss", accuracy: "Accuracy" }[state.surface];
    planeTitle.textContent = `${words} of ${describe(state.row)}, ${data.trainings[state.training].model}`;
    // By default, levels are common to all models, so that models can be compared.
    const all = (state.scale === "all" ? Object.values(plane().of) : [landscape()]).filter((one) => state.surface !== "accuracy" || one.accuracy);
    const ranges = all.map((one) => extent(surfaceOf(one, state.row)));
    const low = Math.min(...ranges.map((r) => r.low));
    const high = Math.max(...ranges.map((r) => r.high));
    const log = low > 0 && high > 20 * low && state.surface === "loss";
    const [from, to] = log ? [Math.log(low), Math.log(high)] : [low, high];
    const band = (value) => {
      const share = ((log ? Math.log(value) : value) - from) / (to - from || 1);
      return Math.min(Math.max(Math.floor(share * state.levels), 0), state.levels - 1);
    };
    const shade = (b) => ramp(state.levels > 1 ? b / (state.levels - 1) : 0);
    const values = surfaceOf(landscape(), state.row);
    const side = Math.max(160, Math.round(canvas.clientWidth || 360));
    const height = Math.round(side * Math.min(1.2, Math.max(0.5, Math.abs((y[ny - 1] - y[0]) / (x[nx - 1] - x[0])) || 1)));
    const dense = Math.min(globalThis.devicePixelRatio || 1, 2);
    const [w, t] = [Math.round(side * dense), Math.round(height * dense)];
    [canvas.width, canvas.height] = [w, t];
    canvas.style.aspectRatio = `${side} / ${height}`;
    const context = canvas.getContext("2d");
    const image = context.createImageData(w, t);
    paint(image, x, y, values, band, shade, dense);
    context.putImageData(image, 0, 0);
    const px = (value) => ((value - x[0]) / (x[nx - 1] - x[0])) * w;
    const py = (value) => (1 - (value - y[0]) / (y[ny - 1] - y[0])) * t;
    const marks = landscape().marks.length ? landscape().marks : [[0, 0]];
    marks.forEach(([a, b], m) => {
      const [at, up, arm] = [px(a), py(b), 7 * dense];
      outlined(context, 2 * dense, "#fff", () => {
        context.moveTo(at - arm, up);
        context.lineTo(at + arm, up);
        context.moveTo(at, up - arm);
        context.lineTo(at, up + arm);
      });
      const name = landscape().names[m];
      if (!name) return;
      context.font = `${12 * dense}px sans-serif`;
      context.lineWidth = 3 * dense;
      context.strokeStyle = "#000";
      context.fillStyle = "#fff";
      context.strokeText(name, px(a) + 9 * dense, py(b) - 6 * dense);
      context.fillText(name, px(a) + 9 * dense, py(b) - 6 * dense);
    });
    if (state.point) {
      const [a, b] = [px(x[state.point[0]]), py(y[state.point[1]])];
      outlined(context, 2.5 * dense, "#ff9d5c", () => context.arc(a, b, 8 * dense, 0, 2 * Math.PI));
    }
    [bar.width, bar.height] = [state.levels, 1];
    const strip = bar.getContext("2d");
    for (let b = 0; b < state.levels; b++) {
      strip.fillStyle = `rgb(${shade(b).join(" ")})`;
      strip.fillRect(b, 0, 1, 1);
    }
    const middle = log ? Math.exp((from + to) / 2) : (from + to) / 2;
    const shown = state.surface === "accuracy" ? percent : format;
    const known = low <= high;
    barText.replaceChildren(...(known ? [low, middle, high].map(shown) : ["no values"]).map((one) => h("span", {}, one)));
    readout.textContent = told();
    center.hidden = !state.point;
    canvas.setAttribute(
      "aria-label",
      `${planeTitle.textContent}: ${shown(low)} to ${shown(high)} in ${state.levels} levels${log ? ", logarithmic" : ""}. ` +
        "Arrow keys move the selected point, Home selects the model, Escape clears the point.",
    );

    function told() {
      const axes = `across: ${labels[0]}; up: ${labels[1]}`;
      if (!state.point) return `Click, or use the arrow keys, to see every class at a point (${axes}; the cross is the model).`;
      const [i, j] = state.point;
      const known = landscape().evaluated[j * nx + i] ? "evaluated" : "interpolated";
      return (
        `At (${format(x[i])}, ${format(y[j])}), ${known}: ${describe(state.row)} has loss ${format(atPoint("loss", state.row))} ` +
        `(the model ${format(base(state.row))})` +
        (landscape().accuracy ? ` and accuracy ${percent(accuracy(state.row))}` : "") + ` (${axes}).`
      );
    }
  }

  function drawSpectrum() {
    const here = data.spectra.filter((one) => one.of[state.training]);
    spectrumSection.hidden = !here.length;
    if (!here.length) return;
    // If the chosen row has no spectrum, that of its rarest class with one is shown, or that of all samples.
    const known = [...new Set(here.flatMap((one) => Object.keys(one.of[state.training])))].map(Number);
    const fitting = known.filter((row) => row >= first && (state.row === 0 || groupOf[row] === names[state.row]));
    const { samples } = here[0];
    const rarest = fitting.reduce((a, b) => (a < 0 || samples[b] <= samples[a] ? b : a), -1);
    const row = known.includes(state.row) ? state.row : rarest >= 0 ? rarest : known[0] ?? state.row;
    const curves = here.map((one) => one.of[state.training][row]).filter(Boolean);
    const instead = row === state.row ? "" : `There is no spectrum of ${describe(state.row)}; this is that of ${!row ? "all samples" : rarest >= 0 ? "its rarest class" : describe(row)}.`;
    const matrices = [...new Set(here.map((one) => one.matrix))];
    spectrumTitle.textContent = `Spectrum of the ${matrices.join(" and the ")}, ${describe(row)}`;
    spectrumPicture.replaceChildren(...curves.map((one) => {
      if (one.density) {
        const { shape, values } = get(one.density);
        const part = (k) => [...values.slice(k * shape[1], (k + 1) * shape[1])];
        const label = `Spectral density of ${describe(row)}, from ${format(one.ends[0])} to ${format(one.ends[1])}`;
        return chart({
          label, xs: part(0), lines: [{ y: part(1), kind: "curve" }], band: [part(2), part(3)], marks: one.ends, log: true,
          xlabel: "eigenvalue; ticks are the extreme Ritz values", ylabel: "density",
        });
      }
      const { shape, values } = get(one.values);
      const dots = one.ranks.map((name, k) => ({
        x: values[k], low: values[shape[1] + k], high: values[2 * shape[1] + k], y: one.ranks.length - k,
        name: name.replace("lambda_", "λ "),
      }));
      const label = `Eigenvalues of ${describe(row)}: ${dots.map((d) => `${d.name} ${format(d.x)}`).join(", ")}`;
      return chart({ label, xs: [], lines: [], dots, xlabel: "eigenvalue, with its 95 % interval", ylabel: "" });
    }), h("p", { class: "note" }, instead));
  }

  function drawLine() {
    const here = data.lines.filter((one) => one.of[state.training]);
    lineSection.hidden = !here.length;
    if (!here.length) return;
    const kind = state.surface === "accuracy" && here.some((one) => !one.of[state.training].accuracy) ? "loss" : state.surface;
    lineTitle.textContent = `Along a line: ${kind} of ${describe(state.row)}`;
    const row = (one) => {
      const { shape, values } = get(kind === "accuracy" ? one.accuracy : one.loss);
      const found = [...values.slice(state.row * shape[1], (state.row + 1) * shape[1])];
      return kind === "rise" ? found.map((value) => value - get(one.base).values[state.row]) : found;
    };
    let others = 0;
    const charts = here.map((line) => {
      const of = Object.entries(line.of).filter(([, one]) => kind !== "accuracy" || one.accuracy);
      const grey = of.filter(([t]) => Number(t) !== state.training).map(([, one]) => ({ y: row(one), kind: "other" }));
      const mine = row(line.of[state.training]);
      const { low, high } = extent(mine);
      others += grey.length;
      return chart({
        label: `${lineTitle.textContent}, from ${format(low)} to ${format(high)}`, xs: line.x,
        lines: [...grey, { y: mine, kind: "curve" }], xlabel: line.label, ylabel: kind,
      });
    });
    linePicture.replaceChildren(...charts, h("p", { class: "note" }, others ? "Grey: the other models and seeds." : ""));
  }

  function drawOwners() {
    const here = data.owners.filter((one) => one.of[state.training]);
    ownersSection.hidden = !here.length;
    ownersTitle.textContent = "Class shares in the sharpest directions";
    ownersTable.replaceChildren(...here.map((one) => ownersOf(one.of[state.training])));
  }

  function ownersOf(of) {
    const shares = get(of.shares);
    const [directions, count] = shares.shape;
    const share = (j, c) => shares.values[j * count + c];
    const most = (c) => Math.max(...Array.from({ length: directions }, (_, j) => Math.abs(share(j, c)) || 0));
    const ranked = [...Array(count).keys()].sort((a, b) => most(b) - most(a));
    const columns = ranked.slice(0, count <= 12 ? count : OWNERS).sort((a, b) => a - b);
    const chosen = state.row - first;
    if (chosen >= 0 && !columns.includes(chosen)) columns.push(chosen);
    const others = columns.length < count;
    const cell = (value, told, bold) => {
      const rgb = ramp(Math.max(0, value));
      const style = { background: `rgb(${rgb.join(" ")})`, color: readable(rgb) };
      return h("td", { style, title: told, class: bold ? "chosen" : null }, percent(value));
    };
    const header = columns.map((c) =>
      h("th", { scope: "col" }, h(
        "button", { type: "button", "aria-pressed": c === chosen, onclick: () => update({ row: first + c }) },
        data.classes[c],
      )),
    );
    const body = Array.from({ length: directions }, (_, j) => {
      const rest = 1 - columns.reduce((sum, c) => sum + share(j, c), 0);
      const error = (c) => get(of.errors).values[j * count + c];
      return h(
        "tr", {}, h("th", { scope: "row" }, `${j + 1}: λ = ${format(get(of.values).values[j])}${of.converged[j] ? "" : " (not converged)"}`),
        ...columns.map((c) => cell(share(j, c), `${data.classes[c]}: ${percent(share(j, c))} ± ${percent(error(c))}`, c === chosen)),
        ...(others ? [h("td", {}, percent(rest))] : []),
      );
    });
    const images = get(of.images).values;
    body.push(h(
      "tr", { class: "images" }, h("th", { scope: "row" }, "images"),
      ...columns.map((c) => h("td", { class: c === chosen ? "chosen" : null }, percent(images[c]))),
      ...(others ? [h("td", {}, percent(1 - columns.reduce((sum, c) => sum + images[c], 0)))] : []),
    ));
    return h(
      "table", { "aria-describedby": `${id}-owners` },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "direction"), ...header, ...(others ? [h("th", { scope: "col" }, "others")] : []))),
      h("tbody", {}, ...body),
    );
  }

  draw();
  // Draw canvases again when their width changes, to keep them sharp.
  let width = 0;
  const observer = new ResizeObserver(() => {
    if (Math.abs(root.clientWidth - width) < 2) return;
    width = root.clientWidth;
    drawRows();
    drawPlane();
  });
  observer.observe(root);
  return { update, state, stop: () => observer.disconnect() };
}

// The entry of anywidget.
export default {
  render({ model, el }) {
    const jupyter = document.body.dataset.jpThemeLight;
    if (jupyter) el.dataset.theme = jupyter === "false" ? "dark" : "light";
    const { stop } = explore(el, model.get("payload"), (selection) => {
      model.set("selection", selection);
      model.save_changes();
    });
    return stop;
  },
};
