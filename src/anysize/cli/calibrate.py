"""`anysize calibrate RUN --size S`."""

from anysize.cli import Settings, check_run, parse_settings, tell, with_device


def command(
    run: str,
    /,
    *settings: Settings,
    size: int,
    checkpoint: str = "last",
    calibration: str = "",
    out: str = "",
    device: str = "",
) -> None:
    """Write a copy of a run's checkpoint with its norms calibrated for an image size.

    Of the calibration is taken what is better on held-out images: all, a part, or nothing, which is told. With
    --evaluation.calibration_strength full all of it is.

    Args:
        run: the run folder
        size: image size in pixels
        checkpoint: what to calibrate: last, best or previous
        calibration: a folder of any pictures, without labels, that calibrate in place of the training images
        out: folder to write; by default checkpoints/calibrated-SIZE in the run
        device: auto, cpu, cuda, cuda:1, mps, ...: --training.device
    """
    overrides = with_device(parse_settings(settings), device)
    check_run(run, overrides)
    from anysize.experiment.calibrate import calibrate
    from anysize.reports.console import progress

    told: list[str] = []
    with progress("calibrating") as say:
        folder = calibrate(
            run,
            size,
            checkpoint=checkpoint,
            calibration=calibration or None,
            out=out or None,
            overrides=overrides,
            on_progress=say,
            on_choice=lambda choice: told.append(str(choice)),
        )
    tell(f"{folder} is calibrated for {size} px: {told[0]}")
