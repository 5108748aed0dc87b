"""The report in a browser: it draws the numbers of the files, reacts, fits a phone, and asks for nothing."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from page_checks import outside, violations
from PIL import Image

from anysize.reports import run_files

pytestmark = pytest.mark.slow

Open = Callable[..., Any]

# What is drawn: of each figure the label of its vertical axis, and by the names of its lines the values.
_LINES = """() => Bokeh.documents.map(each => {
  const figure = each.roots()[0];
  const lines = figure.renderers.filter(one => one.glyph && one.glyph.type === "Line").map(
    one => [one.name, ["x", "y"].map(key => Array.from(one.data_source.data[key]))]);
  const across = [...figure.below, ...figure.above][0].axis_label;
  return [`${figure.left[0].axis_label} by ${across}`, Object.fromEntries(lines)];
})"""
# Where on the page the point (x, y) of a document's figure is drawn.
_PLACE = """([document, x, y]) => {
  const figure = Bokeh.documents[document].roots()[0];
  const view = [...Bokeh.index.roots].find(each => each.model === figure);
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.x + view.frame.x_scale.compute(x), box.y + view.frame.y_scale.compute(y)];
}"""


def test_it_shows_the_numbers_of_the_files_and_does_nothing_else(open_report: Open) -> None:
    opened = open_report()
    page = opened.page
    assert opened.complaints == []
    assert opened.asked_for == [page.url]
    assert page.title() == "<script>alert(1)"  # the run's name, and not what its classes are called
    assert page.locator("td", has_text="<script>document.title = 'attacked 1'</script>").count() > 0

    drawn = dict(page.evaluate(_LINES))
    metrics = pd.read_csv(opened.run / run_files.METRICS)
    steps = pd.read_csv(opened.run / run_files.STEPS)
    for title, frame, named in (
        ("loss by epoch", metrics, {"training": ("train_loss", 1), "validation": ("validation_loss", 1)}),
        ("learning rate by epoch", metrics, {"": ("lr", 1)}),
        ("gradient norm by epoch", metrics, {"": ("train_gradient_norm", 1)}),
        ("images/s by epoch", metrics, {"": ("images_per_second", 1)}),
        ("waiting for images (%) by epoch", metrics, {"": ("waiting", 100)}),
        ("loss by step", steps, {"": ("loss", 1)}),
        ("gradient norm by step", steps, {"": ("gradient_norm", 1)}),
    ):
        assert drawn[title].keys() == named.keys()
        for name, (column, factor) in named.items():
            x, y = drawn[title][name]
            np.testing.assert_allclose(x, frame[title.rpartition(" ")[2]])
            np.testing.assert_allclose(y, frame[column] * factor)
    x, y = drawn["top-1 error (%) by epoch"]["validation"]
    np.testing.assert_allclose(y, 100 * (1 - metrics["validation_top1"]))


def test_pointer_legend_and_choice(open_report: Open) -> None:
    opened = open_report(color_scheme="dark")
    page, metrics = opened.page, pd.read_csv(opened.run / run_files.METRICS)
    at = page.evaluate(_PLACE, [0, 2, float(metrics["validation_loss"][1])])
    page.mouse.move(at[0] - 40, at[1] - 40)
    page.mouse.move(*at)
    tip = page.locator(".bk-Tooltip").filter(visible=True).first
    tip.wait_for(timeout=5000)
    told = tip.evaluate("el => el.shadowRoot.textContent")
    assert "validation" in told
    assert f"{metrics['validation_loss'][1]:.3f}" in told

    visible = "() => Bokeh.documents[0].roots()[0].renderers.map(each => each.visible)"
    assert page.evaluate(visible) == [True] * 4  # a line and its points, twice
    page.locator("figure.drawn").first.get_by_text("validation", exact=True).click()
    assert page.evaluate(visible) == [True, True, False, False]

    by_step = page.locator('figure.drawn[aria-label^="loss by step"]')
    assert not by_step.is_visible()
    page.get_by_role("radio", name="by step").check()
    page.wait_for_function("el => el.querySelector('.bk-Figure').clientWidth > 400", arg=by_step.element_handle())
    assert not page.locator('figure.drawn[aria-label^="loss by epoch"]').is_visible()


def test_the_keyboard_reaches_contents_choices_and_what_scrolls(open_report: Open) -> None:
    page = open_report(width=390).page
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("[document.activeElement.tagName, document.activeElement.className]"))
        if reached[-1] == ["SUMMARY", ""] and len(reached) > 20:
            break
    assert reached[0] == ["A", "skip"]
    assert ["INPUT", ""] in reached
    assert any(name.startswith("scroll") for _, name in reached)
    assert reached[-1] == ["SUMMARY", ""]
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_keys_tell_the_values_of_a_figure_zoom_it_and_hide_its_lines(open_report: Open) -> None:
    opened = open_report()
    page, metrics = opened.page, pd.read_csv(opened.run / run_files.METRICS)
    told, span = page.locator("output.told").first, "() => { const x = Bokeh.documents[0].roots()[0].x_range;"
    span += " return x.end - x.start; }"
    page.get_by_role("radio", name="by epoch").focus()
    page.keyboard.press("Tab")
    assert "1 training, 2 validation" in (told.text_content() or "")
    whole = page.evaluate(span)

    def press(key: str, text: str) -> None:
        page.keyboard.press(key)
        page.wait_for_function("([el, text]) => el.textContent.includes(text)", arg=[told.element_handle(), text])

    training, validation = (f"{metrics[f'{split}_loss'][1]:.4g}" for split in ("train", "validation"))
    press("ArrowRight", "epoch 1: ")
    press("ArrowRight", f"epoch 2: training {training}, validation {validation}")
    page.keyboard.press("+")
    page.wait_for_function(f"whole => ({span})() < .6 * whole", arg=whole)
    page.keyboard.press("2")
    page.wait_for_function("el => !el.textContent.includes('validation')", arg=told.element_handle())
    visible = "() => Bokeh.documents[0].roots()[0].renderers.map(each => each.visible)"
    assert page.evaluate(visible) == [True, True, False, False]
    page.keyboard.press("2")
    press("0", "Keys: ")
    assert page.evaluate(span) == pytest.approx(whole)
    assert page.evaluate(visible) == [True] * 4
    page.keyboard.press("Tab")
    assert told.text_content() == ""
    assert opened.complaints == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_it_is_readable_at_any_width_in_both_schemes(open_report: Open, scheme: str, width: int) -> None:
    page = open_report(width, color_scheme=scheme, bypass_csp=True).page
    assert (_brightness(page, "figure.drawn >> nth=0") > 128) == (scheme == "light")
    assert outside(page) == []
    if width == 390:
        tables = page.locator(".scroll").evaluate_all("all => all.some(el => el.scrollWidth > el.clientWidth)")
        assert tables  # or the cue, a shadow behind which a table goes on, would be shown nowhere
    assert violations(page) == []


def test_on_paper_it_is_light_and_no_figure_is_cut(open_report: Open) -> None:
    page = open_report(color_scheme="dark").page
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("nav").is_hidden()
    assert page.locator("details pre").is_visible()  # the whole recipe
    assert page.locator(".card:has(.tall)").first.evaluate("el => getComputedStyle(el).breakInside") == "auto"
    card = page.locator(".cards > .card").first
    assert card.evaluate("el => getComputedStyle(el).breakInside") == "avoid"
    assert card.evaluate("el => getComputedStyle(el).backgroundColor") == "rgb(255, 255, 255)"
    assert _brightness(page, "figure.drawn >> nth=0") > 200
    wide = "all => all.map(el => el.firstElementChild.getBoundingClientRect().width)"
    assert max(page.locator("figure.drawn:visible").evaluate_all(wide)) <= 661
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert page.locator("figure.drawn").evaluate_all("all => all.every(el => !el.style.zoom)")


def _brightness(page: Any, selector: str) -> float:
    """The middle value of an element's pixels."""
    return float(np.median(np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("L"))))
