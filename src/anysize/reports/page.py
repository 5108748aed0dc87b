"""Pieces of an HTML page that is one file and loads nothing: cards with figures, tables, numbers, text."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from bokeh.embed import components
from bokeh.resources import Resources

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
# The browser itself then refuses whatever would be loaded from elsewhere.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def page(title: str, subtitle: str, parts: Iterable[str]) -> str:
    """A whole page, bokeh's script inside; `parts` are made by the functions below."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{_CSS}</style>
{Resources(mode="inline", components=["bokeh"]).render()}
</head><body><main>
<h1>{escape(title)}</h1><p class="subtitle">{escape(subtitle)}</p>
{"".join(parts)}
</main></body></html>
"""


def section(title: str, *parts: str) -> str:
    """A heading and what stands under it."""
    return f"<h2>{escape(title)}</h2>\n" + "\n".join(parts)


def tiles(values: Iterable[tuple[str, str, str]]) -> str:
    """Numbers at a glance: (what, value, note)."""
    tile = '<div class="tile"><span>{}</span><b>{}</b><span>{}</span></div>'
    return f'<div class="tiles">{"".join(tile.format(*map(escape, value)) for value in values)}</div>'


def cards(*parts: str, narrow: bool = False) -> str:
    """Cards side by side where there is room, two in a row or, if `narrow`, about four."""
    return f'<div class="cards{" narrow" * narrow}">{"".join(parts)}</div>'


def card(title: str, body: str, note: str = "", *, tall: bool = False) -> str:
    """A framed piece of HTML with a title and a note under it; a `tall` one scrolls inside.

    >>> card("mAP", "")[:50]
    '<section class="card"><h3 class="as-is">mAP</h3><d'
    """
    kind = ' class="as-is"' if title[1:2].isupper() else ""  # the first letter of others is shown as a capital
    heading = f"<h3{kind}>{escape(title)}</h3>" if title else ""
    after = f'<p class="note">{escape(note)}</p>' if note else ""
    frame = "scroll tall" if tall else "scroll"
    return f'<section class="card">{heading}<div class="{frame}">{body}</div>{after}</section>'


def plot(title: str, figure: Any, note: str = "") -> str:
    """A card with a bokeh figure."""
    script, div = components(figure)
    return card(title, f"{div}{script}", note)


def table(content: TextTable) -> str:
    """A table; its title and caption are the card's to show."""
    kind = ' class="wide"' if len(content.header) > _MANY else ""
    head = f"<thead>{_row('th', content.header, content)}</thead>" if any(content.header) else ""
    body = "".join(_row("td", row, content, i) for i, row in enumerate(content.rows))
    return f"<table{kind}>{head}<tbody>{body}</tbody></table>"


def _row(tag: str, cells: Sequence[str], content: TextTable, row: int = -1) -> str:
    inner = ""
    for i, cell in enumerate(cells):
        kind = " ".join(["label"] * (i < content.labels) + ["best"] * ((row, i) in content.best))
        inner += f'<{tag} class="{kind}">{escape(" ".join(cell.splitlines()))}</{tag}>'
    return f"<tr>{inner}</tr>"
