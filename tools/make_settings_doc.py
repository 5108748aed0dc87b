"""Write docs/settings.md, the table of every setting of a recipe, from the settings themselves.

python tools/make_settings_doc.py
"""

import itertools
import json
from pathlib import Path

from anysize.recipe import documented_settings

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"

HEAD = """# Settings

Every setting of a recipe. In a recipe file a setting stands in its section: `epochs = 20` under `[training]`. On the
command line it is `--training.epochs 20`. In Python it is `{"training.epochs": 20}`. `anysize settings PATTERN` shows
the same text.

A setting marked "by epoch" takes a number or a schedule; see [Change one thing](guides/change-one-thing.md).
`[[sizes.phases]]` is explained in [Sizes](guides/sizes.md).

This page is written by `tools/make_settings_doc.py`.
"""


def settings_page() -> str:
    """The page as Markdown."""
    lines = [HEAD]
    for section, rows in itertools.groupby(documented_settings(), key=lambda row: row[0].partition(".")[0]):
        lines += [f"## [{section}]", "", "| setting | default | allowed | meaning |", "|---|---|---|---|"]
        for name, default, allowed, doc in rows:
            cells = (f"`{name}`", f"`{json.dumps(default)}`", allowed, doc)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
    print(f"{PAGE} is written")
