"""`anysize policy RUN [IMAGE ...]`."""

from pathlib import Path

from anysize.cli import Images, parse_settings

_BESIDE = 4  # images at most whose blocks are listed side by side


def command(run: str, /, *images: Images, size: int | None = None, limit: int = 1000, checkpoint: str = "last") -> None:
    """Show how much an elastic network's blocks use half resolution, on its data or on image files.

    On the validation images the figures also go into scale_policy.csv and report.html in the run folder.

    Parameters
    ----------
    run
        the run folder
    images
        image files, by default the validation images; then settings, such as --data.root DIR
    size
        image size in pixels; by default the base size
    limit
        validation images at most, spread evenly over the classes
    checkpoint
        last, best, previous or calibrated-SIZE
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from anysize.experiment.policy import run_scale_policy

    at = next((i for i, token in enumerate(images) if token.startswith("--")), len(images))
    paths = list(dict.fromkeys(images[:at]))
    table = run_scale_policy(
        run, paths, size=size, limit=limit, checkpoint=checkpoint, overrides=parse_settings(images[at:])
    )
    console = Console()
    if paths:
        names = {path: Path(path).name for path in paths}
        if len(set(names.values())) == len(names):  # else the folders tell them apart
            table = table.assign(image=table["image"].map(names))
        every, columns = ("image", "block") if len(paths) > _BESIDE else ("block", "image")
        wide = table.pivot_table(index=every, columns=columns, values="low_share", sort=False)
        if every == "image":  # the blocks of a deep network do not fit side by side
            wide = wide.mean(axis=1).to_frame("from half resolution, mean over blocks")
    else:
        every, wide = "block", table[table["label"] == ""].set_index("block")[["low_share", "low_share_sd"]]
        wide.columns = ["from half resolution", "deviation over images"]
    shown = Table(Column(every, overflow="fold"), *(escape(str(column)) for column in wide.columns))
    for name, row in wide.iterrows():
        shown.add_row(escape(str(name)), *(f"{value:.1%}" for value in row))
    console.print(shown)
    if not paths:
        console.print(f"{run}/scale_policy.csv and {run}/report.html are written", soft_wrap=True)
