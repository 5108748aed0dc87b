"""What a reader chooses on a page of overlaid curves: which runs are shown, and what lies on the horizontal axis.

The script finds the figures' data by their tags (`overlays.Overlay`) and changes them in place. Without it, or before
the figures are drawn, the page shows all runs over the first axis. Names reach it as text of the page alone.
"""

import json
from collections.abc import Sequence

from markupsafe import Markup

from anysize.reports.overlays import Entry, Overlay, axis_name
from anysize.reports.page import Template, script, swatch

_SEARCHED = 12  # more runs than that can be searched by name

_RUNS = Template("""<section class="card runs" aria-label="Runs that are shown"><div class="which">
<b>Runs</b>
{%- if entries | length > 1 %} <button type="button" data-all="1">all</button>
<button type="button" data-all="">none</button>{% endif %}
{%- if entries | length > searched %} <input type="search" placeholder="part of a name" aria-label="Find runs by name">
{%- endif -%}
</div><div class="entries{{ " lined-up" if entries | length > searched }}">
{%- for entry in entries %}<label><input type="checkbox" checked autocomplete="off" data-entry="{{ loop.index0 }}">
{#- -#}{{ swatch(entry.color, entry.dash) }}
{{- entry.name }}</label>{% endfor -%}
</div></section>""")
_AXIS = Template("""<div class="axis" data-overlay="{{ name }}" role="radiogroup" aria-label="Horizontal axis">
{#- -#}<span>Horizontal axis</span>
{%- for axis, shown, unit in axes %}<label><input type="radio" name="axis-{{ name }}" value="{{ axis }}"
 data-label="{{ unit }}" autocomplete="off"{{ " checked" if loop.first }}>{{ shown }}</label>{% endfor -%}
</div>""")
_SORTED = Template("""<div class="sorted" data-values="{{ values }}">{{ table }}</div>""")

CSS = """
.runs { position: sticky; top: 0; z-index: 4; max-height: 24vh; overflow: auto; margin-top: 18px; padding: 10px 18px; }
.which { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-bottom: 6px; }
.which button { font: inherit; font-size: 13px; padding: 1px 10px; border: 1px solid var(--line); border-radius: 6px;
  background: var(--ground); color: var(--ink); cursor: pointer; }
.which input { font: inherit; font-size: 13px; padding: 1px 8px; border: 1px solid var(--line); border-radius: 6px;
  background: var(--paper); color: var(--ink); }
.entries { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 13px; }
.lined-up { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); }
.entries label, .axis label { display: inline-flex; align-items: center; gap: 6px; cursor: pointer; min-width: 0;
  overflow-wrap: anywhere; }
.entries label:not(:has(:checked)) { color: var(--soft); text-decoration: line-through; }
.entries .swatch { flex: none; }
.axis { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-bottom: 12px; font-size: 14px; }
.axis span { color: var(--soft); }
.sorted th { cursor: pointer; }
.sorted th button { all: unset; cursor: pointer; }
.sorted th button:focus-visible { outline: 2px solid var(--accent); }
.sorted th[aria-sort=ascending] button::after { content: " \\25B2"; }
.sorted th[aria-sort=descending] button::after { content: " \\25BC"; }
@media (max-width: 700px) {
  .runs { position: static; max-height: none; }
  .entries { max-height: 40vh; overflow: auto; }
}
@media print { .runs { position: static; max-height: none; overflow: visible; } .which, .axis { display: none; } }
"""

_SCRIPT = """
(() => {
  const boxes = [...document.querySelectorAll(".runs [data-entry]")];
  const parts = () => Bokeh.documents.flatMap(each => each.roots()).flatMap(root => [...root.references()]);
  const drawn = () => {
    const found = new Map();
    for (const part of parts())
      if (part.type == "GlyphRenderer" && part.data_source.tags.includes("overlay"))
        found.set(part.data_source, part.view.filter);
    return found;
  };
  const choose = () => {
    const shown = boxes.map(box => box.checked);
    for (const [source, filter] of drawn())
      filter.booleans = Array.from(source.data.entry, entry => shown[entry]);
  };
  let pointed = null, waits = false;
  const point = entry => {
    pointed = entry;
    if (waits) return;
    waits = true;
    setTimeout(() => {
      waits = false;
      for (const source of drawn().keys()) {
        const alike = Array.from(source.data.entry, each => pointed == null || each == pointed);
        const usual = source.data.usual;
        const strength = same => pointed == null ? 1 : same ? 1.6 : .06;
        source.data = {...source.data, alpha: alike.map((same, i) => Math.min(1, usual[i] * strength(same)))};
      }
    }, 40);
  };
  for (const box of boxes) {
    const entry = Number(box.dataset.entry), label = box.parentElement;
    box.addEventListener("change", choose);
    label.addEventListener("mouseenter", () => point(entry));
    label.addEventListener("mouseleave", () => point(null));
    box.addEventListener("focus", () => { if (box.matches(":focus-visible")) point(entry); });
    box.addEventListener("blur", () => point(null));
  }
  for (const button of document.querySelectorAll(".runs [data-all]"))
    button.addEventListener("click", () => {
      for (const box of boxes) if (!box.parentElement.hidden) box.checked = Boolean(button.dataset.all);
      choose();
    });
  for (const field of document.querySelectorAll(".runs [type=search]"))
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase();
      for (const box of boxes) {
        const hidden = !box.parentElement.textContent.toLowerCase().includes(wanted);
        box.parentElement.style.display = hidden ? "none" : "";
        box.parentElement.hidden = hidden;
      }
    });
  for (const radio of document.querySelectorAll(".axis input"))
    radio.addEventListener("change", () => {
      const name = radio.closest(".axis").dataset.overlay, column = "x " + radio.value;
      for (const source of drawn().keys())
        if (source.tags.includes(name)) source.data = {...source.data, xs: source.data[column]};
      for (const figure of parts())
        if (figure.type == "Figure" && figure.tags.includes(name)) {
          figure.below[0].axis_label = radio.dataset.label;
          if ("min_interval" in figure.below[0].ticker)
            figure.below[0].ticker.min_interval = ["epoch", "step"].includes(radio.value) ? 1 : 0;
          figure.reset.emit();
        }
    });
  for (const place of document.querySelectorAll(".sorted")) {
    const values = JSON.parse(place.dataset.values), body = place.querySelector("tbody"), rows = [...body.rows];
    const names = new Intl.Collator("en", {numeric: true});
    const heads = [...place.querySelectorAll("thead th")];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      const text = row => rows[row].cells[column].textContent;
      head.addEventListener("click", () => {
        const down = head.ariaSort == "descending" || (head.ariaSort == null && !values[column].length);
        for (const each of heads) each.ariaSort = null;
        head.ariaSort = down ? "ascending" : "descending";
        const order = (one, other) => {
          if (!values[column].length) return names.compare(text(one), text(other)) * (down ? 1 : -1);
          const [a, b] = [values[column][one], values[column][other]];
          if (a == null || b == null) return (a == null) - (b == null);
          return (a - b) * (down ? 1 : -1);
        };
        body.append(...rows.map((_, i) => i).sort(order).map(i => rows[i]));
      });
    });
  }
})();
"""


def choice_of_runs(entries: Sequence[Entry]) -> Markup:
    """The legend of all figures: what is unticked there is hidden in each."""
    return _RUNS(entries=entries, searched=_SEARCHED, swatch=swatch)


def choice_of_axis(overlay: Overlay) -> Markup | str:
    """What the figures of an overlay have on their horizontal axis; empty where there is no choice."""
    if len(overlay.axes) < 2:
        return ""
    axes = [(axis, axis_name(axis), unit) for axis, (_, unit) in overlay.axes.items()]
    return _AXIS(name=overlay.name, axes=axes)


def choosing() -> Markup:
    """The script behind the choices; once a page, after all of them."""
    return script(_SCRIPT)


def sortable(table: Markup, values: Sequence[Sequence[float | None]]) -> Markup:
    """A table whose rows are sorted by a click on a heading: by the values of that column, or by its text."""
    return _SORTED(table=table, values=json.dumps(values))
