"""`anysize policy RUN [IMAGE ...]`."""

from anysize.cli import Images, check_run, say_written, split_images, with_device


def command(
    run: str,
    /,
    *images: Images,
    size: int | None = None,
    limit: int = 1000,
    checkpoint: str = "last",
    device: str = "",
) -> None:
    """Show how much an elastic network's blocks use half resolution, on its data or on image files.

    On the validation images the figures also go into scale_policy.csv and report.html in the run folder.

    Args:
        run: the run folder
        images: image files, by default the validation images; then settings, such as --data.root DIR
        size: image size in pixels; by default the base size
        limit: validation images at most, spread evenly over the classes
        checkpoint: last, best, best-2, previous or calibrated-SIZE
        device: auto, cpu, cuda, cuda:1, mps, ...: --training.device
    """
    paths, overrides = split_images(images)
    overrides = with_device(overrides, device)
    check_run(run, overrides)
    from anysize.experiment.policy import run_scale_policy
    from anysize.reports.console import show_table
    from anysize.reports.policy_report import images_table, summary_table

    table = run_scale_policy(
        run, list(dict.fromkeys(paths)), size=size, limit=limit, checkpoint=checkpoint, overrides=overrides
    )
    show_table(images_table(table) if paths else summary_table(table))
    if not paths:
        say_written(table.attrs["written"])
