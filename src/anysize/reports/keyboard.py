"""Figures by keyboard: bokeh lets the tab key reach them, and this tells their values, zooms, and hides lines.

A figure that has the focus says under it what the keys do, then what is drawn at the place that the arrows have gone
to; a screen reader reads that line (`<output class="told">` behind the figure).
"""

KEYS = """
(() => {
  const own = new WeakMap();  // of a figure: where the arrows have gone to
  const whole = new WeakMap();  // of a range: its ends before it was zoomed
  const number = value => typeof value != "number" ? String(value)
    : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
  const viewOf = drawn => {
    const id = drawn.querySelector("[data-root-id]")?.dataset.rootId;
    return [...Bokeh.index.roots].find(each => each.model.id == id);
  };
  const legendOf = figure => [...figure.above, ...figure.below, ...figure.center].find(each => each.type == "Legend");
  const labelOf = figure => [...figure.below, ...figure.above].find(each => each.axis_label)?.axis_label ?? "";
  const place = x => Array.isArray(x) ? x[0] : x;
  // What is drawn at each place along the horizontal axis: place -> texts.
  const valuesOf = figure => {
    const found = new Map();
    const add = (x, name, y) => {
      if (x == null || y == null || Number.isNaN(y)) return;
      if (!found.has(place(x))) found.set(place(x), new Set());
      found.get(place(x)).add(`${name ? name + " " : ""}${number(y)}`);
    };
    for (const each of figure.renderers) {
      const glyph = each.glyph, data = each.data_source?.data, kind = glyph?.type;
      if (!each.visible || !data) continue;
      const column = field => Array.from(data[glyph[field]?.field] ?? []);
      if (kind == "Line" || kind == "Scatter") {
        const [x, y] = [column("x"), column("y")];
        if (kind == "Line" || each.name) x.forEach((at, i) => add(at, each.name, y[i]));
      } else if (kind == "MultiLine") {
        const [xs, ys] = [column("xs"), column("ys")];
        const shown = each.view.filter.booleans;
        xs.forEach((x, i) => {
          const name = `${data.name?.[i] ?? ""} ${each.name ?? ""}`.trim();
          if (!shown || shown[i]) Array.from(x).forEach((at, j) => add(at, name, ys[i][j]));
        });
      } else if (kind == "VBar" && data[each.name])
        column("x").forEach((at, i) => add(at, each.name, data[each.name][i]));
      else if (kind == "Quad") {
        const [left, right, top] = ["left", "right", "top"].map(column);
        left.forEach((at, i) => add((at + right[i]) / 2, each.name, top[i]));
      }
    }
    const places = [...found.keys()];
    if (places.every(each => typeof each == "number")) places.sort((a, b) => a - b);
    return places.map(each => [each, [...found.get(each)]]);
  };
  const say = (drawn, text) => { drawn.nextElementSibling.textContent = text; };
  const help = figure => {
    const items = legendOf(figure)?.items.slice(0, 9) ?? [];
    const lines = items.map((item, i) => `${i + 1} ${item.label.value ?? item.label}`);
    const hide = lines.length ? `, hide or show ${lines.join(", ")}` : "";
    return `Keys: arrows left and right for values, + and - zoom, 0 shows all${hide}`;
  };
  const mark = (drawn, view, x) => {
    drawn.querySelector(".at")?.remove();
    const { x_scale: scale, bbox } = view.frame, across = x == null ? NaN : scale.compute(x);
    if (!(across >= bbox.left && across <= bbox.right)) return;
    const canvas = view.canvas_view.el.getBoundingClientRect(), box = drawn.getBoundingClientRect();
    const line = document.createElement("div");
    line.className = "at";
    line.style.left = `${canvas.x - box.x + across}px`;
    line.style.top = `${canvas.y - box.y + bbox.top}px`;
    line.style.height = `${bbox.height}px`;
    drawn.append(line);
  };
  const tell = (drawn, view) => {
    const values = valuesOf(view.model), at = own.get(drawn);
    const [x, texts] = values[at] ?? [];
    if (x == null) return say(drawn, help(view.model));
    const some = texts.slice(0, 12), more = texts.length > 12 ? `, and ${texts.length - 12} more` : "";
    say(drawn, `${labelOf(view.model)} ${number(x)}: ${some.join(", ")}${more}`);
    mark(drawn, view, x);
  };
  const go = (drawn, view, by) => {
    const values = valuesOf(view.model), last = values.length - 1;
    if (last < 0) return;
    const at = own.get(drawn);
    own.set(drawn, at == null ? (by > 0 ? 0 : last) : Math.min(last, Math.max(0, at + by)));
    const range = view.model.x_range, x = values[own.get(drawn)][0];
    if (typeof x == "number" && (x < range.start || x > range.end)) {  // what is told comes into view
      const { x_scale: scale, bbox } = view.frame, gone = scale.compute(x) - bbox.hcenter;
      span(view, bbox.left + gone, bbox.right + gone);
    }
  };
  const span = (view, left, right) => {
    const range = view.model.x_range, scale = view.frame.x_scale;
    if (range.type == "FactorRange") return;
    const axis = labelOf(view.model);
    if (whole.get(range)?.axis != axis) whole.set(range, {axis, low: range.start, high: range.end});
    const {low, high} = whole.get(range);
    const [start, end] = [Math.max(low, scale.invert(left)), Math.min(high, scale.invert(right))];
    if (start == low && end == high) {  // it follows what is drawn again
      whole.delete(range);
      return view.reset();
    }
    view.update_range({ xrs: new Map([[range, { start, end }]]), yrs: new Map() }, { panning: true });
  };
  const zoom = (drawn, view, factor) => {
    const { x_scale: scale, bbox } = view.frame, x = valuesOf(view.model)[own.get(drawn)]?.[0];
    const middle = typeof x == "number" ? scale.compute(x) : bbox.hcenter;
    span(view, middle - (middle - bbox.left) * factor, middle + (bbox.right - middle) * factor);
  };
  const back = (drawn, view) => {
    own.delete(drawn);
    whole.delete(view.model.x_range);
    view.reset();
    mark(drawn, view, null);
  };
  addEventListener("keydown", event => {
    const drawn = event.target.closest?.(".drawn"), view = drawn && viewOf(drawn);
    if (!view || event.ctrlKey || event.metaKey || event.altKey) return;
    const item = /^[1-9]$/.test(event.key) ? legendOf(view.model)?.items[event.key - 1] : null;
    if (event.key == "ArrowRight" || event.key == "ArrowLeft") go(drawn, view, event.key == "ArrowRight" ? 1 : -1);
    else if (event.key == "+" || event.key == "=") zoom(drawn, view, .5);
    else if (event.key == "-") zoom(drawn, view, 2);
    else if (event.key == "0" || event.key == "Escape") back(drawn, view);
    else if (item) for (const each of item.renderers) each.visible = !each.visible;
    else return;
    event.preventDefault();
    setTimeout(() => tell(drawn, view), 30);  // when the ranges are drawn
  });
  addEventListener("focusin", event => {
    const drawn = event.target.closest?.(".drawn"), view = drawn && viewOf(drawn);
    if (view && event.composedPath()[0].matches(":focus-visible")) tell(drawn, view);
  });
  addEventListener("focusout", event => {
    const drawn = event.target.closest?.(".drawn");
    if (drawn) { say(drawn, ""); drawn.querySelector(".at")?.remove(); }
  });
})();
"""
