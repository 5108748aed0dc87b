"""`anysize data` and `anysize data check NAME --data.root DIR`."""

from typing import Literal

from anysize.cli import Settings, parse_settings
from anysize.registry import UserError


def command(action: Literal["list", "check"] = "list", name: str = "", /, *settings: Settings) -> None:
    """List the data sets, or decode every image of one and say what is there.

    Parameters
    ----------
    action
        list: a line each; check: count images by class, sizes and damaged files of a data set
    name
        which data set to check; its folder is given with --data.root DIR
    """
    from anysize.data.registry import dataset_docs

    if action == "list":
        docs = dataset_docs()
        width = max(map(len, docs))
        for each, doc in docs.items():
            print(f"{each:{width}}  {doc}")
        return
    if not name:
        raise UserError("no data set named; give one, such as `anysize data check folder --data.root DIR`")
    from rich.console import Console

    from anysize.data.check import check_dataset, check_table
    from anysize.recipe import Recipe, override

    recipe = override(Recipe(), {**parse_settings(settings), "data.name": name})
    Console().print(check_table(check_dataset(recipe.data)))
