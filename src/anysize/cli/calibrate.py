"""`anysize calibrate RUN --size S`."""

from anysize.cli import Settings, parse_settings


def command(run: str, /, *settings: Settings, size: int, checkpoint: str = "last", out: str = "") -> None:
    """Write a copy of a run's checkpoint with its norms calibrated for an image size.

    Args:
        run: the run folder
        size: image size in pixels
        checkpoint: what to calibrate: last, best or previous
        out: folder to write; by default checkpoints/calibrated-SIZE in the run
    """
    from anysize.experiment.runs import calibrate

    folder = calibrate(run, size, checkpoint=checkpoint, out=out or None, overrides=parse_settings(settings))
    print(f"{folder} is calibrated for {size} px")
