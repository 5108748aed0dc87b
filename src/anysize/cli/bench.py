"""`anysize bench MODEL`."""

from pathlib import Path
from typing import Literal

from anysize.cli import Settings, parse_settings
from anysize.registry import UserError


def command(
    model: str,
    /,
    *settings: Settings,
    sizes: str = "",
    batch: str = "1,8",
    train: bool = True,
    fold: bool = False,
    channels_last: bool = True,
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    norm: str = "",
    task: str = "",
    device: str = "auto",
    threads: int = 0,
    repeats: int = 5,
    csv: str = "",
) -> None:
    """Measure a model's speed and memory on this machine, in inference and in training.

    Settings of [model], such as --model.options.depth 20 or --model.checkpoint-segments 2, are taken, too.

    Args:
        model: a name that `anysize models` lists, timm:NAME, FILE.py:FUNCTION, MODULE:FUNCTION, or a run folder
        sizes: sides of the images, pixels, such as 128,224; by default the one that the model was published for
        batch: images a step, such as 1,8
        train: measure training steps, too
        fold: measure inference with batch norms folded into convolutions
        channels_last: memory order of images and weights
        precision: bfloat16 and float16 by autocast
        norm: swap the model's norms for this one
        task: classification or segmentation; by default what the model was made for
        device: auto, cpu or cuda
        threads: of PyTorch on a CPU; 0: as many as it chooses
        repeats: the figures are medians of so many
        csv: also write the table to this file
    """
    import torch
    from rich.console import Console

    from anysize.experiment.named import named_model
    from anysize.models.measure.speed import bench
    from anysize.reports.console import show_table
    from anysize.reports.environment import describe_environment
    from anysize.reports.run_files import check_writable, write_atomically
    from anysize.reports.text_table import TextTable

    given = {**parse_settings(settings), **({"model.norm": norm} if norm else {})}
    sides = _numbers("sizes", sizes)
    built, expected = named_model(model, given, task=task, size=max(sides, default=None))
    if csv:
        check_writable(Path(csv))  # before minutes are spent on the figures
    with Console().status("measuring") as status:
        result = bench(
            built,
            sides or [expected.image_size],
            _numbers("batch", batch),
            in_channels=expected.channels,
            on_row=lambda row: status.update(f"measured {row['mode']} at {row['size']} px, batch {row['batch']}"),
            train=train,
            fold=fold,
            channels_last=channels_last,
            precision=precision,
            device=device,
            threads=threads,
            repeats=repeats,
        )
    order = "channels last" if channels_last else "contiguous"
    folded = ", inference with norms folded" * fold
    rows = []
    for row in result.to_dict("records"):
        spread = (row["slowest"] - row["fastest"]) / row["milliseconds"]
        times = f"{row['images_per_second']:,.1f}", f"{row['milliseconds']:,.2f}", f"{spread:.0%}"
        memory, speed = f"{row['memory'] / 2**20:,.0f} MiB", f"{row['flops_per_second'] / 1e9:,.1f}"
        rows.append([row["mode"], f"{row['size']} px", str(row["batch"]), *times, memory, speed])
    header = "mode", "size", "batch", "images/s", "ms a step", "spread", "memory", "GFLOP/s"
    show_table(TextTable(header, rows, title=f"{model}, {precision}, {order}{folded}"))
    machine = describe_environment()
    about = ", ".join(f"{name} {machine[name]}" for name in ("torch", "torchvision", "timm") if name in machine)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() and device != "cpu" else "no GPU"
    used = threads or torch.get_num_threads()
    print(
        f"{machine.get('processor', '')}, {machine['cores']} cores, {used} threads, {gpu}; Python "
        f"{machine['python']}, {about}; medians of {repeats} repetitions, spread from the fastest to "
        "the slowest; memory is weights and all other tensors of a step at their most"
    )
    if csv:
        write_atomically(Path(csv), result.to_csv(index=False))
        print(f"{csv} is written")


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--{name} is {text!r}; expected numbers such as 128,224") from None
