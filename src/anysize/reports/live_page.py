"""The live page: one bokeh document a browser, which is renewed from the runs that are followed.

What a run folder holds reaches the page as data of figures and widgets, which show it as text, and in a table that a
template escapes.
"""

import datetime
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bokeh.document import Document
from bokeh.models import CheckboxGroup, Div, RadioGroup
from jinja2 import Environment
from markupsafe import Markup

from anysize.reports.keyboard import KEYS
from anysize.reports.live import DRAWN, Followed, Watched
from anysize.reports.live_figures import LiveFigure, Look, looks
from anysize.reports.live_terminal import runs_table
from anysize.reports.overlays import axis_name
from anysize.reports.page import Template, swatch
from anysize.reports.style import CSS

MILLISECONDS = 2000
"""Between two looks."""

_AXES = ("epoch", "step", "seconds", "flops")
_FIGURES = {
    "loss": "loss",
    "metric": "what runs are judged by",
    "lr": "learning rate",
    "gradient_norm": "norm of the gradient",
    "images_per_second": "images a second",
    "waiting": "waiting for images",
}
_STATE = Template("""<p class="note" role="status">{{ note }}</p>
{%- if rows %}<div class="scroll" tabindex="0" role="group" aria-label="Runs"><table><thead><tr>
{%- for cell in header %}<th class="{{ "label" if loop.index0 < 2 }}">{{ cell }}</th>{% endfor -%}
</tr></thead><tbody>
{%- for look, cells in rows %}<tr>
{%- for cell in cells %}<td class="{{ "label" if loop.index0 < 2 }}{{ " " ~ cells[1] if loop.index0 == 1 }}">
{%- if loop.first %}{{ swatch(look.color, look.dash) if look else swatch("") }} {% endif %}{{ cell }}</td>{% endfor -%}
</tr>{% endfor -%}
</tbody></table></div>{% endif -%}
{%- if more %}<p class="note">{{ more }}</p>{% endif %}""")
_OWN_CSS = """
:host { display: block; color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
.bk-clearfix { display: block !important; }
.running { color: var(--right); font-weight: 600; }
.stalled, .failed, .killed { color: var(--wrong); font-weight: 600; }
"""
_WIDGETS = """
:host { font-size: 13px; width: 100%; color: var(--ink); }
.bk-input-group { flex-flow: row wrap; gap: 2px 18px; }
"""
PAGE = Environment(autoescape=False).from_string("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; base-uri 'none'; form-action 'none';
 script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'">
<title>{{ title | e }}</title>
<link rel="icon" href="data:,">
<style>{{ css }}</style>
{{ bokeh_css if bokeh_css }}
{{ bokeh_js if bokeh_js }}
</head><body>
{% macro embed(root) %}<div id="{{ root.elementid }}" data-root-id="{{ root.id }}"></div>{% endmacro %}
<main>
<h1>{{ title | e }}</h1>
<section class="card" style="margin-top: 18px">{{ embed(roots.state) }}</section>
<h2>Curves</h2>
<section class="card">{{ embed(roots.axis) }}{{ embed(roots.shown) }}</section>
<div class="cards" style="margin-top: 18px">
{% for name, heading in figures.items() %}<section class="card"><h3>{{ heading | e }}</h3>
<figure class="drawn" aria-label="{{ heading | e }}">{{ embed(roots[name]) }}</figure>
<output class="told"></output></section>
{% endfor %}
</div>
<p class="note">Thin: training, by step where steps.csv tells; thick with marks: validation. Times are of training.</p>
</main>
{{ plot_script }}
<script>{{ keys }}</script>
</body></html>
""")  # values are escaped where they are text; what bokeh hands over is HTML


class LivePage:
    """What one browser sees."""

    def __init__(self, document: Document, watched: Watched) -> None:
        self.watched = watched
        self._drawn: Any = None  # what the figures show
        self._looks: dict[str, Look] = {}
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        self.state = Div(name="state", disable_math=True, stylesheets=[CSS, _OWN_CSS], **wide)
        axes = [*map(axis_name, _AXES)]
        self.axis = RadioGroup(name="axis", labels=axes, active=0, inline=True, stylesheets=[_WIDGETS])
        self.shown = CheckboxGroup(name="shown", inline=True, stylesheets=[_WIDGETS], **wide)
        self.figures = [LiveFigure(name) for name in _FIGURES]
        for root in (self.state, self.axis, self.shown, *(figure.plot for figure in self.figures)):
            document.add_root(root)
        document.template = PAGE
        document.template_variables.update(css=CSS, figures=_FIGURES, keys=KEYS)
        document.title = "Runs"
        self.renew()
        for widget in (self.axis, self.shown):
            widget.on_change("active", lambda attribute, old, new: self.draw())
        document.add_periodic_callback(self.renew, MILLISECONDS)

    def renew(self) -> None:
        """Look at the runs, and show what is new."""
        self.watched.look()
        drawn = [run.name for run in _with_curves(self.watched.runs)]
        self._looks = looks(drawn, self._looks)
        self.state.text = str(_state(self.watched, self._looks))
        if drawn != self.shown.labels:
            hidden = {name for i, name in enumerate(self.shown.labels) if i not in self.shown.active}
            self.shown.update(labels=drawn, active=[i for i, name in enumerate(drawn) if name not in hidden])
        self.draw()

    def draw(self) -> None:
        """Draw the curves of the runs that are ticked, if they are others than those that are drawn."""
        names = {name for i, name in enumerate(self.shown.labels) if i in self.shown.active}
        runs = [run for run in _with_curves(self.watched.runs) if run.name in names]
        axis = _AXES[self.axis.active or 0]
        wanted = (axis, [(run.name, id(run), run.version) for run in runs])
        if wanted != self._drawn:
            self._drawn = wanted
            for figure in self.figures:
                figure.draw(runs, axis, self._looks)


def _with_curves(runs: Sequence[Followed]) -> list[Followed]:
    return [run for run in runs if run.run and (len(run.run.metrics) or len(run.steps))][:DRAWN]


def _state(watched: Watched, known: dict[str, Look]) -> Markup:
    now = datetime.datetime.now().strftime("%H:%M:%S")
    if not watched.runs:
        where = ", ".join(map(str, watched.paths))
        return _STATE(
            note=f"{now}: no run in {where} yet; this page shows it as soon as there is one", rows=[], more=""
        )
    counts = Counter(run.state for run in watched.runs)
    note = f"{now}: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    told = runs_table(watched.runs)
    rows = [(known.get(str(row[0])), row) for row in told.rows]
    more = f"The curves are those of {DRAWN} runs." if len(watched.runs) > DRAWN else ""
    return _STATE(note=note, header=told.header, rows=rows, more=more, swatch=swatch)
