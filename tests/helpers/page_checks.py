"""What a page in a browser is asked for."""

from typing import Any

IDLE = "Bokeh.documents.length > 0 && Bokeh.documents.every(each => each.is_idle)"


def violations(page: Any) -> list[str]:
    """What axe-core finds, contrast among it, in the page as it is now; it was opened with `bypass_csp`."""
    from axe_playwright_python.sync_playwright import Axe

    page.locator("details").evaluate_all("all => all.forEach(each => each.open = true)")
    # Contrast on a gradient is not measured: it is the cue's, and transparent where text stands.
    page.add_style_tag(content=".scroll { background: none !important; }")
    found = Axe().run(page, options={"resultTypes": ["violations"]})
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found.response["violations"]]


def outside(page: Any) -> list[str]:
    """Cards and figures that are wider than they should be, and the page itself if it scrolls sideways."""
    wide = "all => all.filter(el => el.scrollWidth > el.clientWidth).map(el => el.outerHTML.slice(0, 200))"
    return list(page.locator("html, .card, .tile, .drawn").evaluate_all(wide))
