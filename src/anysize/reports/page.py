"""Pieces of an HTML page that is one file and loads nothing: cards with figures, tables, numbers, text.

A piece is `Markup`, made by a template that escapes all text that is handed to it. The browser runs the scripts alone
whose digests the page's policy lists: those of the figures, bokeh's own, one for printing and one for the keyboard. All
else, such as the dark scheme and the choice between figures, is CSS (`style.py`).
"""

import base64
import hashlib
import itertools
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from anysize.reports.description import describe
from anysize.reports.keyboard import KEYS
from anysize.reports.style import CSS, PRINT
from anysize.reports.text_table import TextTable

_MANY = 8  # columns: more stand closer together
_LONG = 16  # characters: a longer name takes several lines on a phone

# The browser itself then refuses whatever would be loaded from elsewhere. Bokeh writes styles while it draws.
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; script-src {scripts}; style-src 'unsafe-inline'; "
    "img-src data: blob:"
)
_OURS = f"data-{secrets.token_hex(16)}"
"""Marks the scripts of figures until the page is whole: what a run folder holds cannot foretell it."""

_NUMBERS = itertools.count()
_TEMPLATES = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def breakable(text: str) -> Markup:
    """A heading whose names of settings may go on in the next line, as in a table with many of them.

    >>> breakable("optimizer.gradient_smoothing")
    Markup('optimizer.<wbr>gradient_<wbr>smoothing')
    """
    return Markup(re.sub(r"(?<=[a-z])[._](?=[a-z0-9])", r"\g<0><wbr>", str(escape(text))))


_TEMPLATES.filters["breakable"] = breakable


class Template:
    """Text with places for values, which are escaped but for `Markup`; jinja2's language.

    >>> Template("<b>{{ name }}</b>{{ rest }}")(name="<i>", rest=Markup("<br>"))
    Markup('<b>&lt;i&gt;</b><br>')
    """

    def __init__(self, text: str) -> None:
        self._template = _TEMPLATES.from_string(text)

    def __call__(self, **values: Any) -> Markup:
        return Markup(self._template.render(values))


_PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<title>{{ title }}</title>
<style>{{ css }}</style>
{% for script in scripts %}
<script>{{ script }}</script>
{% endfor %}
</head><body><main>
<a class="skip" href="#content">Skip to the content</a>
<h1>{{ title }}</h1><p class="subtitle">{{ subtitle }}</p>
{% if contents | length > 1 %}
<nav aria-label="Contents"><ul>
{%- for id, heading in contents %}<li><a href="#{{ id }}">{{ heading }}</a></li>{% endfor -%}
</ul></nav>
{% endif %}
<div id="content" tabindex="-1">
{{ body }}
</div></main></body></html>
""")
_SECTION = Template("""<section class="part" id="{{ id }}"><h2>{{ title }}</h2>
{{ parts | join('\n') }}
</section>""")
_HEADING = re.compile(r'<section class="part" id="([^"]+)"><h2>(.*?)</h2>')  # text has no < of its own: it is escaped
_TILES = Template("""<div class="tiles">
{%- for what, value, note in values -%}
<div class="tile"><span>{{ what }}</span><b>{{ value }}</b><span>{{ note }}</span></div>
{%- endfor -%}
</div>""")
_CARDS = Template('<div class="cards{{ " narrow" if narrow }}">{{ parts | join }}</div>')
_CARD = Template("""<section class="card">
{%- if title %}<h3{% if as_is %} class="as-is"{% endif %}>{{ title }}</h3>{% endif -%}
{{ body }}
{%- if note %}<p class="note">{{ note }}</p>{% endif -%}
</section>""")
_RUN = Template("<script {{ ours }}>{{ code }}</script>")
_STYLE = Template("<style>{{ css }}</style>")
_SCROLL = Template("""<div class="scroll{{ " tall" if tall }}" tabindex="0" role="group" aria-label="{{ name }}">
{{- body }}</div>""")
_FOLDED = Template('<details class="card"><summary>{{ title }}</summary>{{ body }}</details>')
_CHOICE = Template("""<div class="choice"><fieldset><legend>{{ title }}</legend>
{%- for name in options %}<label><input type="radio" name="{{ group }}"{{ " checked" if loop.first }}>
{{- name }}</label>{% endfor -%}
</fieldset>
{%- for body in options.values() %}<div class="option">{{ body }}</div>{% endfor -%}
</div>""")
_PLOT = Template('<figure class="drawn" aria-label="{{ said }}">{{ div }}</figure><output class="told"></output>')
_TABLE = Template("""<table{% if wide %} class="wide"{% endif %}>
{%- macro row(tag, cells) %}<tr>
{%- for kind, cell in cells -%}
{%- set name = tag if cell else "td" %}<{{ name }} class="{{ kind }}">
{{- cell | breakable if tag == "th" else cell }}</{{ name }}>
{%- endfor -%}
</tr>{% endmacro -%}
{%- if header %}<thead>{{ row("th", header) }}</thead>{% endif -%}
<tbody>{% for cells in rows %}{{ row("td", cells) }}{% endfor %}</tbody></table>""")
_SWATCH = Template("""<svg class="swatch" width="26" height="10" aria-hidden="true">
{%- if color %}<line x1="1" y1="5" x2="25" y2="5" stroke="{{ color }}" stroke-width="3"
 stroke-dasharray="{{ dash | join(' ') }}"/>{% endif -%}
</svg>""")
_AS_IT_STANDS = Template("<pre>{{ text }}</pre>")
_SCRIPT = re.compile(f"<script {_OURS}>(.*?)</script>", re.DOTALL)


def page(title: str, subtitle: str, parts: Iterable[Markup | str]) -> str:
    """A whole page, bokeh's script inside; `parts` are made by the functions below."""
    body = str(Markup("").join(parts))  # of Markup, `replace` would escape what it is given
    own = [f"\n{script}\n" for script in (*Resources(mode="inline", components=["bokeh"]).js_raw, PRINT, KEYS)]
    digests = dict.fromkeys(map(_digest, [*own, *_SCRIPT.findall(body)]))
    return _PAGE(
        title=title,
        subtitle=subtitle,
        policy=Markup(_POLICY.format(scripts=" ".join(digests))),
        css=Markup(CSS),
        scripts=map(Markup, own),
        contents=[(id, Markup(heading)) for id, heading in _HEADING.findall(body)],
        body=Markup(body.replace(f"<script {_OURS}>", "<script>")),
    )


def _digest(script: str) -> str:
    """A script as the policy of a page lists it: it is written in UTF-8 (`write_atomically`)."""
    digest = hashlib.sha256(script.encode(errors="backslashreplace")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def section(title: str, *parts: Markup | str) -> Markup:
    """A heading, which the page's table of contents lists, and what stands under it."""
    return _SECTION(id=re.sub(r"\W+", "-", title.lower()).strip("-"), title=title, parts=parts)


def tiles(values: Iterable[tuple[str, str, str]]) -> Markup:
    """Numbers at a glance: (what, value, note)."""
    return _TILES(values=values)


def cards(*parts: Markup | str, narrow: bool = False) -> Markup:
    """Cards side by side where there is room, two in a row or, if `narrow`, about four."""
    return _CARDS(parts=parts, narrow=narrow)


def card(title: str, body: Markup | str, note: str = "", *, tall: bool = False) -> Markup:
    """A framed piece of HTML with a title and a note under it, which scrolls inside where it is wide, or `tall`.

    >>> str(card("mAP", "", "a note"))
    '<section class="card"><h3 class="as-is">mAP</h3><p class="note">a note</p></section>'
    """
    return _framed(title, _SCROLL(body=body, tall=tall, name=title or note or "table") if body else "", note)


def plot(title: str, figure: Any, note: str = "") -> Markup:
    """A card with a bokeh figure, and for those who do not see it a sentence on what it shows."""
    return plots([(title, figure, note)])[0]


def plots(pieces: Iterable[tuple[str, Any, str]]) -> list[Markup]:
    """Cards with bokeh figures that share data, as (title, figure, note): all of them in a page, or none."""
    pieces = list(pieces)
    if not pieces:
        return []
    code, divs = components(tuple(figure for _, figure, _ in pieces), wrap_script=False)
    drawn: list[Markup] = []
    for (title, figure, note), div in zip(pieces, divs, strict=True):
        said = describe(figure)
        said = said if said.startswith(title) else f"{title}: {said}"
        run = "" if drawn else script(code)  # which draws them all
        drawn.append(_framed(title, _PLOT(div=Markup(div), said=said) + run, note))
    return drawn


def folded(title: str, body: Markup | str) -> Markup:
    """A card that shows its title alone until it is opened."""
    return _FOLDED(title=title, body=_SCROLL(body=body, name=title, tall=False))


def choice(title: str, options: Mapping[str, Markup | str]) -> Markup:
    """Pieces of which the reader sees one, the first until another is chosen by its name.

    >>> "checked>by epoch" in choice("Curves", {"by epoch": "", "by step": ""})
    True
    """
    return _CHOICE(title=title, options=options, group=f"choice-{next(_NUMBERS)}")


def _framed(title: str, body: Markup | str, note: str) -> Markup:
    as_is = title[1:2].isupper()  # the first letter of others is shown as a capital
    return _CARD(title=title, as_is=as_is, body=body, note=note)


def script(code: str) -> Markup:
    """A script of this package's own, which the page's policy lists; no text from elsewhere may be part of it."""
    return _RUN(code=Markup(code), ours=_OURS)


def style(css: str) -> Markup:
    """Further rules for the looks of what stands on a page."""
    return _STYLE(css=Markup(css))


def as_it_stands(text: str) -> Markup:
    """Text whose lines and spaces are kept."""
    return _AS_IT_STANDS(text=text)


def swatch(color: str, dash: Iterable[int] = ()) -> Markup:
    """The line that stands for a curve in a legend; without a colour its place alone."""
    return _SWATCH(color=color, dash=dash)


def table(content: TextTable) -> Markup:
    """A table; its title and caption are the card's to show."""
    header = _row(content, content.header) if any(content.header) else []
    rows = [_row(content, row, i) for i, row in enumerate(content.rows)]
    return _TABLE(wide=len(content.header) > _MANY, header=header, rows=rows)


def _row(content: TextTable, cells: Iterable[str], row: int = -1) -> list[tuple[str, str]]:
    """The cells of a row, each with its kind."""
    lines = [" ".join(cell.splitlines()) for cell in cells]
    kinds = [
        " ".join(
            ["label"] * (i < content.labels)
            + ["long"] * (i < content.labels and len(line) > _LONG)
            + ["best"] * ((row, i) in content.best)
        )
        for i, line in enumerate(lines)
    ]
    return list(zip(kinds, lines, strict=True))
