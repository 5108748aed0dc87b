"""`anysize settings [PATTERN]`."""


def command(pattern: str = "", /) -> None:
    """List every setting of a recipe with its default and what it means.

    Parameters
    ----------
    pattern
        only settings whose name or description contains this
    """
    from rich.console import Console
    from rich.table import Table

    from anysize.recipe import documented_settings

    table = Table(
        "setting", "default", "meaning", title="--section.field VALUE; in a recipe file, field = VALUE under section"
    )
    for name, default, allowed, doc in documented_settings():
        if pattern.lower() in f"{name} {doc}".lower():
            table.add_row(f"--{name}", str(default), doc + (f" ({allowed})" if allowed else ""))
    Console().print(table)
