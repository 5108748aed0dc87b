"""Pieces of an HTML page that is one file and loads nothing: cards with figures, tables, numbers, text.

A piece is `Markup`, made by a template that escapes all text that is handed to it. The browser runs the scripts alone
whose digests the page's policy lists: those of the figures and bokeh's own.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable
from typing import Any

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from anysize.reports.text_table import TextTable

_MANY = 8  # columns: more stand closer together

_CSS = """
:root { --ink: #1d232b; --soft: #5f6975; --line: #e1e5ea; --paper: #fff; --ground: #f5f6f8; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 36px 28px 64px; }
h1 { margin: 0; font-size: 28px; line-height: 1.25; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 40px 0 14px; font-size: 19px; }
h3 { margin: 0 0 8px; font-size: 15px; }
h3:not(.as-is)::first-letter { text-transform: uppercase; }
.subtitle, .note { color: var(--soft); margin: 4px 0 0; }
.note { font-size: 13px; }
.note + .cards { margin-top: 12px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(175px, 1fr)); gap: 14px; margin-top: 22px; }
.tile, .card { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; }
.tile { padding: 12px 16px; }
.tile b { display: block; font-size: 21px; font-weight: 600; white-space: nowrap; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--soft); font-size: 13px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 18px; }
.card { padding: 16px 18px; min-width: 0; }
.narrow { grid-template-columns: repeat(auto-fill, minmax(min(230px, 100%), 1fr)); }
.cards + .card, .cards + .cards, .card + .cards { margin-top: 18px; }
.scroll { overflow-x: auto; }
.tall { max-height: 520px; overflow-y: auto; }
.tall th { position: sticky; top: 0; background: var(--paper); }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 18px 6px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { white-space: normal; color: var(--soft); font-weight: 600; font-size: 13px; vertical-align: bottom; }
.label { text-align: left; }
.wide { font-size: 13px; }
.wide th, .wide td { padding-right: 8px; }
.wide th { font-size: 12px; }
.wide tr > :last-child { padding-right: 0; }
td.label + td.label:last-child { white-space: normal; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
td.best { font-weight: 700; color: var(--accent); }
.prediction div { display: flex; gap: 8px; }
.prediction figure { margin: 0; flex: 1 1 0; min-width: 0; max-width: 320px; }
.prediction img { width: 100%; display: block; border-radius: 4px; image-rendering: pixelated; }
.prediction figcaption { color: var(--soft); font-size: 12px; }
.prediction h4 { margin: 8px 0 2px; font-size: 13px; font-weight: 600; overflow-wrap: anywhere; }
.prediction ul { list-style: none; margin: 0; padding: 0; font-size: 13px; }
.prediction ul { display: flex; flex-wrap: wrap; gap: 0 14px; }
.right { color: #00734d; } .wrong { color: #b34a00; } .missed { color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 6px 0 12px; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 12px; margin-right: 5px; border: 1px solid var(--line); }
pre { margin: 0; overflow-x: auto; font: 13px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
"""
# The browser itself then refuses whatever would be loaded from elsewhere. Bokeh writes styles while it draws.
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; script-src {scripts}; style-src 'unsafe-inline'; "
    "img-src data: blob:"
)
_OURS = f"data-{secrets.token_hex(16)}"
"""Marks the scripts of figures until the page is whole: what a run folder holds cannot foretell it."""

_TEMPLATES = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


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
<h1>{{ title }}</h1><p class="subtitle">{{ subtitle }}</p>
{{ body }}
</main></body></html>
""")
_SECTION = Template("<h2>{{ title }}</h2>\n{{ parts | join('\n') }}")
_TILES = Template("""<div class="tiles">
{%- for what, value, note in values -%}
<div class="tile"><span>{{ what }}</span><b>{{ value }}</b><span>{{ note }}</span></div>
{%- endfor -%}
</div>""")
_CARDS = Template('<div class="cards{{ " narrow" if narrow }}">{{ parts | join }}</div>')
_CARD = Template("""<section class="card">
{%- if title %}<h3{% if as_is %} class="as-is"{% endif %}>{{ title }}</h3>{% endif -%}
<div class="scroll{{ " tall" if tall }}">{{ body }}</div>
{%- if note %}<p class="note">{{ note }}</p>{% endif -%}
</section>""")
_RUN = Template("<script {{ ours }}>{{ code }}</script>")
_STYLE = Template("<style>{{ css }}</style>")
_PLOT = Template("{{ div }}<script {{ ours }}>{{ script }}</script>")
_TABLE = Template("""<table{% if wide %} class="wide"{% endif %}>
{%- macro row(tag, cells) %}<tr>
{%- for kind, cell in cells %}<{{ tag }} class="{{ kind }}">{{ cell }}</{{ tag }}>{% endfor -%}
</tr>{% endmacro -%}
{%- if header %}<thead>{{ row("th", header) }}</thead>{% endif -%}
<tbody>{% for cells in rows %}{{ row("td", cells) }}{% endfor %}</tbody></table>""")
_AS_IT_STANDS = Template("<pre>{{ text }}</pre>")
_SCRIPT = re.compile(f"<script {_OURS}>(.*?)</script>", re.DOTALL)


def page(title: str, subtitle: str, parts: Iterable[Markup | str]) -> str:
    """A whole page, bokeh's script inside; `parts` are made by the functions below."""
    body = str(Markup("").join(parts))  # of Markup, `replace` would escape what it is given
    own = [f"\n{script}\n" for script in Resources(mode="inline", components=["bokeh"]).js_raw]
    digests = dict.fromkeys(map(_digest, [*own, *_SCRIPT.findall(body)]))
    return _PAGE(
        title=title,
        subtitle=subtitle,
        policy=Markup(_POLICY.format(scripts=" ".join(digests))),
        css=Markup(_CSS),
        scripts=map(Markup, own),
        body=Markup(body.replace(f"<script {_OURS}>", "<script>")),
    )


def _digest(script: str) -> str:
    """A script as the policy of a page lists it: it is written in UTF-8 (`write_atomically`)."""
    digest = hashlib.sha256(script.encode(errors="backslashreplace")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def section(title: str, *parts: Markup | str) -> Markup:
    """A heading and what stands under it."""
    return _SECTION(title=title, parts=parts)


def tiles(values: Iterable[tuple[str, str, str]]) -> Markup:
    """Numbers at a glance: (what, value, note)."""
    return _TILES(values=values)


def cards(*parts: Markup | str, narrow: bool = False) -> Markup:
    """Cards side by side where there is room, two in a row or, if `narrow`, about four."""
    return _CARDS(parts=parts, narrow=narrow)


def card(title: str, body: Markup | str, note: str = "", *, tall: bool = False) -> Markup:
    """A framed piece of HTML with a title and a note under it; a `tall` one scrolls inside.

    >>> str(card("mAP", "")[:50])
    '<section class="card"><h3 class="as-is">mAP</h3><d'
    """
    as_is = title[1:2].isupper()  # the first letter of others is shown as a capital
    return _CARD(title=title, as_is=as_is, body=body, note=note, tall=tall)


def plot(title: str, figure: Any, note: str = "") -> Markup:
    """A card with a bokeh figure."""
    script, div = components(figure, wrap_script=False)
    return card(title, _PLOT(div=Markup(div), script=Markup(script), ours=_OURS), note)


def plots(pieces: Iterable[tuple[str, Any, str]]) -> list[Markup]:
    """Cards with bokeh figures that share data, as (title, figure, note): in a page together, or not at all."""
    pieces = list(pieces)
    if not pieces:
        return []
    code, divs = components(tuple(figure for _, figure, _ in pieces), wrap_script=False)
    scripts = [script(code), *[Markup("")] * (len(pieces) - 1)]
    return [
        card(title, Markup(div) + run, note) for (title, _, note), div, run in zip(pieces, divs, scripts, strict=True)
    ]


def script(code: str) -> Markup:
    """A script of this package's own, which the page's policy lists; no text from elsewhere may be part of it."""
    return _RUN(code=Markup(code), ours=_OURS)


def style(css: str) -> Markup:
    """Further rules for the looks of what stands on a page."""
    return _STYLE(css=Markup(css))


def as_it_stands(text: str) -> Markup:
    """Text whose lines and spaces are kept."""
    return _AS_IT_STANDS(text=text)


def table(content: TextTable) -> Markup:
    """A table; its title and caption are the card's to show."""
    header = _row(content, content.header) if any(content.header) else []
    rows = [_row(content, row, i) for i, row in enumerate(content.rows)]
    return _TABLE(wide=len(content.header) > _MANY, header=header, rows=rows)


def _row(content: TextTable, cells: Iterable[str], row: int = -1) -> list[tuple[str, str]]:
    """The cells of a row, each with its kind."""
    kinds = [
        " ".join(["label"] * (i < content.labels) + ["best"] * ((row, i) in content.best))
        for i in range(len(content.header))
    ]
    return list(zip(kinds, (" ".join(cell.splitlines()) for cell in cells), strict=True))
