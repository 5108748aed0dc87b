"""`anysize settings [PATTERN]`."""

import textwrap


def command(pattern: str = "", /) -> None:
    """List every setting of a recipe with its default and what it means.

    Args:
        pattern: only settings whose name or description contains this
    """
    from anysize.recipe import documented_settings, settings_near
    from anysize.registry import UserError

    shown = [row for row in documented_settings() if pattern.lower() in f"{row[0]} {row[3]}".lower()]
    if not shown:
        near = " or ".join(map(repr, settings_near(pattern)[:5]))
        hint = f"did you mean {near}?" if near else "`anysize settings` lists all"
        raise UserError(f"no setting has {pattern!r} in its name or description: {hint}")
    print("On the command line --section.field VALUE; in a recipe file field = VALUE under [section].")
    for name, default, allowed, doc in shown:
        print(f"\n--{name} {default!r}")
        text = doc + (f" ({allowed})" if allowed else "")
        print(textwrap.fill(text, 100, initial_indent="    ", subsequent_indent="    "))
