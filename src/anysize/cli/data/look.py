"""`anysize data show` and `anysize data stats`: look at a data set before it is trained on."""

from typing import Annotated

from cyclopts import Parameter

from anysize.cli import Settings, parse_settings, say_written, tell
from anysize.registry import UserError, counted

_MOST_SAMPLES = 64
_PEEK = 2_000  # images that the page of `show` takes its figures from
_EDGES = 10  # classes at either end that the console names


def show(
    name: str = "",
    /,
    *settings: Settings,
    out: str = "",
    samples: int = 8,
) -> None:
    """Write a page of what the network sees: training images at every size, after augmentation.

    Args:
        name: a recipe's name, the path of a TOML file, a run folder, or a data set, whose folder is given with
            --data.root DIR; any setting may follow, as for `anysize train`
        out: the page; by default NAME-samples.html
        samples: images of each size
    """
    if not 1 <= samples <= _MOST_SAMPLES:
        raise UserError(f"--samples is {samples}; expected 1 to {_MOST_SAMPLES}")
    recipe_name = _named(name, "show")
    overrides = parse_settings(settings)
    from pathlib import Path

    from anysize.data.statistics import dataset_statistics
    from anysize.experiment.samples import recipe_for_data, training_samples
    from anysize.reports.console import progress
    from anysize.reports.data_page import write_data_page
    from anysize.sizes.shapes import in_pixels
    from anysize.tasks.base import task_class

    recipe = recipe_for_data(recipe_name, overrides)
    path = Path(out or f"{_stem(recipe_name)}-samples.html").expanduser()
    with progress("loading training images") as say:
        found = training_samples(recipe, samples)
        statistics = dataset_statistics(
            recipe.data,
            task_class(recipe.task.name).targets,
            size=found.preprocessing.image_size,
            images=_PEEK,
            most=_PEEK,
            on_image=lambda doing, done, total: say(f"{doing} {done:,} of {counted(total, 'image')}"),
        )
        write_data_page(path, f"{recipe_name}: what the network sees", statistics, found)
    sizes = ", ".join(in_pixels(each.size, "").rstrip() for each in found.by_size)
    shown = max(len(each.samples) for each in found.by_size)
    tell(f"{counted(shown, 'training image')} of each size ({sizes} px)")
    say_written([str(path)])


def stats(
    name: str = "",
    /,
    *settings: Settings,
    csv: Annotated[str, Parameter(name="--csv")] = "",
    html: str = "",
    size: int = 0,
    images: int = 10_000,
) -> None:
    """Count and measure a data set: images a class, image sizes, mean and deviation of the colours.

    Args:
        name: a recipe's name, the path of a TOML file, a run folder, or a data set, whose folder is given with
            --data.root DIR; any setting may follow, as for `anysize train`
        csv: write every figure to this file
        html: write a page with histograms to this file
        size: pixels of the shorter side at which colours are measured; 0: the base size
        images: training images whose colours are measured, spread evenly; 0: all
    """
    if size < 0 or images < 0:
        raise UserError(f"received --size {size} --images {images}; expected no negative number")
    recipe_name = _named(name, "stats")
    overrides = parse_settings(settings)
    from pathlib import Path

    from anysize.data.statistics import dataset_statistics
    from anysize.experiment.samples import recipe_for_data
    from anysize.experiment.sizing import base_size
    from anysize.reports.console import progress, show_table
    from anysize.reports.data_page import write_data_page
    from anysize.reports.data_statistics import class_table, split_table, statistics_lines, statistics_rows
    from anysize.reports.run_files import check_writable, write_rows
    from anysize.tasks.base import task_class

    recipe = recipe_for_data(recipe_name, overrides)
    files = [Path(file).expanduser() for file in (csv, html) if file]
    for file in files:
        check_writable(file)
    with progress("looking at the images") as say:
        found = dataset_statistics(
            recipe.data,
            task_class(recipe.task.name).targets,
            size=size or base_size(recipe),
            images=images,
            on_image=lambda doing, done, total: say(f"{doing} {done:,} of {counted(total, 'image')}"),
        )
    show_table(split_table(found))
    show_table(class_table(found, _EDGES))
    for line in statistics_lines(found):
        tell(line)
    if csv:
        write_rows(Path(csv).expanduser(), statistics_rows(found))
    if html:
        write_data_page(Path(html).expanduser(), f"{recipe_name}: the data", found)
    say_written([str(file) for file in files])


def _named(name: str, action: str) -> str:
    if not name:
        raise UserError(f"no recipe or data set is named; give one, such as `anysize data {action} quickstart`")
    return name


def _stem(name: str) -> str:
    """What the name of a file that is made of a recipe begins with."""
    return name.removesuffix(".toml").strip("/.").replace("/", "-")
