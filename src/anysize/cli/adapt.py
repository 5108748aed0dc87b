"""`anysize adapt RUN --size S`."""

import sys

from anysize.cli import Settings, check_run, parse_settings, tell, with_device


def command(
    run: str,
    /,
    *settings: Settings,
    size: int,
    epochs: int = 1,
    steps: int = 0,
    lr: float = 0.01,
    checkpoint: str = "last",
    device: str = "",
) -> None:
    """Write a copy of a run's checkpoint with its head and norms fine-tuned for an image size.

    `anysize evaluate` then measures it at that size, too, and tells what it took. A call that was stopped goes on when
    it is made again.

    Args:
        run: the run folder
        size: image size in pixels
        epochs: passes over the training images
        steps: of an epoch at most; 0: all
        lr: learning rate at first; it falls to 0 along a cosine
        checkpoint: what to adapt: last, best or previous
        device: auto, cpu, cuda, cuda:1, mps, ...: --training.device
    """
    overrides = with_device(parse_settings(settings), device)
    check_run(run, overrides)
    from anysize.experiment.adapt import adapt
    from anysize.ranks import main_process
    from anysize.registry import printable
    from anysize.stopping import Interrupted

    try:
        folder = adapt(run, size, epochs=epochs, steps=steps, lr=lr, checkpoint=checkpoint, overrides=overrides)
    except Interrupted as stop:
        if main_process():
            print(printable(f"stopped: {stop}; the same command goes on from there"), file=sys.stderr)
        sys.exit(130)
    if main_process():
        tell(f"{folder} is adapted to {size} px: anysize evaluate {run} --sizes {size}")
