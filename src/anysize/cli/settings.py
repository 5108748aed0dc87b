"""`anysize settings [PATTERN]`."""

import textwrap


def command(pattern: str = "", /) -> None:
    """List every setting of a recipe with its default and what it means.

    Args:
        pattern: only settings whose name or description contains this
    """
    from anysize.recipe import documented_settings

    print("On the command line --section.field VALUE; in a recipe file field = VALUE under [section].")
    for name, default, allowed, doc in documented_settings():
        if pattern.lower() in f"{name} {doc}".lower():
            print(f"\n--{name} {default!r}")
            text = doc + (f" ({allowed})" if allowed else "")
            print(textwrap.fill(text, 100, initial_indent="    ", subsequent_indent="    "))
