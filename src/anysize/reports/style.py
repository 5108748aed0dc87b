"""How the pages look: light and dark, on a phone and on paper.

The colours of text have at least 4.5 times the luminance of what lies behind them, or a 4.5th of it, in both schemes.
"""

CSS = """
:root { --ink: #1d232b; --soft: #5a646f; --line: #e1e5ea; --paper: #fff; --ground: #f5f6f8; --accent: #0069a6;
  --right: #006e4a; --wrong: #b04800; --shade: rgba(20, 30, 40, .22); color-scheme: light; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #a8adb3; --line: #3a3a3a; --paper: #1a1a1a; --ground: #101010; --accent: #6fb9f2;
    --right: #45c695; --wrong: #ff9b5a; --shade: rgba(0, 0, 0, .75); color-scheme: dark; }
  /* Figures and legends are drawn on white and turned: white becomes --paper, what is dark becomes light and keeps its
     hue. */
  .drawn, .swatch { filter: invert(.9) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 36px 28px 64px; }
#content:focus { outline: none; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: 8px; top: -60px; padding: 8px 14px; background: var(--paper); color: var(--accent); }
.skip:focus { top: 8px; z-index: 9; }
a { color: var(--accent); }
h1 { margin: 0; font-size: 28px; line-height: 1.25; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 40px 0 14px; font-size: 19px; overflow-wrap: anywhere; }
h3 { margin: 0 0 8px; font-size: 15px; overflow-wrap: anywhere; }
h3:not(.as-is)::first-letter, summary::first-letter { text-transform: uppercase; }
.part { scroll-margin-top: 8px; }
.subtitle, .note { color: var(--soft); margin: 4px 0 0; overflow-wrap: anywhere; }
.note { font-size: 13px; }
.note + .cards { margin-top: 12px; }
.cards + .note { margin-top: 24px; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 14px 0 0; padding: 0; list-style: none; }
nav a { display: inline-block; padding: 3px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 14px; margin-top: 22px; }
.tile, .card { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; }
.tile { padding: 12px 16px; }
.tile b { display: block; font-size: 21px; font-weight: 600; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--soft); font-size: 13px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 18px; }
.cards:not(.narrow) > .card:not(.prediction):last-child:nth-child(odd) { grid-column: 1 / -1; }
.card { padding: 16px 18px; min-width: 0; }
.narrow { grid-template-columns: repeat(auto-fill, minmax(min(230px, 100%), 1fr)); }
.tiles + .card, .cards + .card, .cards + .cards, .card + .cards, .card + .card, .choice + * { margin-top: 18px; }
.cards > .card + .card { margin-top: 0; }
.drawn { position: relative; margin: 0; min-width: 0; }
.drawn:focus-within:has(+ .told:not(:empty)) { outline: 2px solid var(--accent); outline-offset: 2px; }
.drawn .at { position: absolute; width: 1px; background: #3d4550; pointer-events: none; }
.told { display: block; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
/* A shadow at the edge behind which there is more: the covers move with what scrolls, the shadows stay. */
.scroll { --covers: linear-gradient(to right, var(--paper) 12px, transparent) left / 40px 100% no-repeat local,
  linear-gradient(to left, var(--paper) 12px, transparent) right / 40px 100% no-repeat local;
  --shadows: linear-gradient(to right, var(--shade), transparent) left / 14px 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / 14px 100% no-repeat scroll;
  overflow-x: auto; background: var(--covers), var(--shadows); }
.tall { max-height: 520px; overflow-y: auto;
  background: var(--covers), linear-gradient(to top, var(--paper) 12px, transparent) bottom / 100% 40px no-repeat local,
  var(--shadows), linear-gradient(to top, var(--shade), transparent) bottom / 100% 14px no-repeat scroll; }
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
tbody tr:last-child td { border-bottom: 0; }
td.best { font-weight: 700; color: var(--accent); }
details.card { padding: 0; }
summary { padding: 12px 18px; font-weight: 600; cursor: pointer; }
details.card .scroll { margin: 0 18px 16px; }
fieldset { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 12px; padding: 0; border: 0; }
legend { float: left; padding: 0; color: var(--soft); }
fieldset label { cursor: pointer; }
fieldset input { margin: 0 6px 0 0; accent-color: var(--accent); }
.choice:has(label:nth-of-type(1) :checked) > .option:not(:nth-of-type(1)),
.choice:has(label:nth-of-type(2) :checked) > .option:not(:nth-of-type(2)),
.choice:has(label:nth-of-type(3) :checked) > .option:not(:nth-of-type(3)),
.choice:has(label:nth-of-type(4) :checked) > .option:not(:nth-of-type(4)) { display: none; }
.prediction .pictures { display: flex; gap: 8px; }
.prediction figure { margin: 0; flex: 1 1 0; min-width: 0; max-width: 320px; }
.prediction img { width: 100%; display: block; border-radius: 4px; image-rendering: pixelated; }
.prediction figcaption { color: var(--soft); font-size: 12px; }
.prediction h3 { margin: 8px 0 2px; font-size: 13px; }
.prediction.right { border-top: 3px solid var(--right); } .prediction.wrong { border-top: 3px solid var(--wrong); }
.prediction dl { display: grid; grid-template-columns: auto 1fr; gap: 0 10px; margin: 0; font-size: 13px; }
.prediction dt { color: var(--soft); } .prediction dd { margin: 0; overflow-wrap: anywhere; }
.prediction ul { display: flex; flex-wrap: wrap; gap: 0 12px; list-style: none; margin: 0; padding: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 6px 0 12px; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 12px; margin-right: 5px; border: 1px solid var(--line); }
li.right { color: var(--right); } li.wrong { color: var(--wrong); } li.missed, li.partly { color: var(--soft); }
pre { margin: 0; font: 13px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media (max-width: 520px) {
  main { padding: 24px 14px 48px; }
  .tiles { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 10px; }
  .card { padding: 14px 12px; }
  td.long { white-space: normal; overflow-wrap: break-word; max-width: 44vw; }
}
@page { margin: 14mm 12mm; }
@media print {
  body { background: none; font-size: 12px; }
  main { max-width: none; padding: 0; }
  nav, .skip, fieldset, .told, .at { display: none; }
  .cards { grid-template-columns: 1fr; }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  .narrow { grid-template-columns: repeat(3, 1fr); }
  .tile, .card:not(:has(.tall, pre)), h3, tr, .drawn { break-inside: avoid; }
  details.card { break-inside: auto; }
  h2, h3, .note:first-child, .note:has(+ .cards), .note:has(+ .legend), .legend, thead { break-after: avoid; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .scroll, .tall { max-height: none; overflow: visible; background: none; }
  .tall th { position: static; }
}
"""

# Figures keep the width that they have on the screen: they are made smaller, so that three fit a page of A4. What is
# folded is printed, too.
PRINT = """
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const each of opened) each.open = true;
  for (const each of document.querySelectorAll(".drawn"))
    each.style.zoom = Math.min(0.8, 660 / (each.clientWidth || 1));
});
addEventListener("afterprint", () => {
  for (const each of opened) each.open = false;
  opened = [];
  for (const each of document.querySelectorAll(".drawn")) each.style.zoom = "";
});
"""
