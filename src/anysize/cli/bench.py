"""`anysize bench MODEL`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from anysize.cli import Settings, check_recipe, parse_settings, tell, with_device
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
    runtime: str = "",
    checkpoint: str = "last",
    find_batch: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measure a model's speed and memory on this machine, in inference and in training.

    Settings of [model], such as --model.options.depth 20 or --model.checkpoint-segments 2, are taken, too; with
    --find-batch all settings of the recipe.

    Args:
        model: a name that `anysize models` lists, timm:NAME, FILE.py:FUNCTION, MODULE:FUNCTION, a run
            folder, or an ONNX or pt2 file
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
        runtime: measure inference by each of these in turn, such as torch,onnxruntime,openvino,inductor
        checkpoint: of a run: last, best, best-2, previous, calibrated-SIZE or the name of one in int8
        find_batch: look for the largest training.batch_size of a recipe (its name in place of a model's, a TOML file or
            a run folder) that fits into memory at all of its sizes: on a GPU by trying, on a CPU as computed
    """
    if find_batch:
        own = {
            "--sizes": sizes,
            "--fold": fold,
            "--csv": csv,
            "--runtime": runtime,
            "--threads": threads,
            "--task": task,
            "--checkpoint": checkpoint != "last",
        }
        own |= {"--batch": batch != "1,8", "--no-train": not train, "--repeats": repeats != 5}
        if named := [name for name, value in own.items() if value]:
            raise UserError(f"--find-batch takes what it tries from a recipe; leave {' and '.join(named)} out")
        short = {"model.norm": norm, "training.precision": precision if precision != "float32" else ""}
        short |= {"training.channels_last": "" if channels_last else "false"}
        given = with_device(parse_settings(settings), device if device != "auto" else "")
        _find_batch(model, {**given, **{name: value for name, value in short.items() if value}})
        return
    import torch

    from anysize.experiment.named import named_model
    from anysize.export.look import is_exported
    from anysize.models.measure.speed import bench
    from anysize.reports.console import progress, show_table
    from anysize.reports.environment import describe_environment
    from anysize.reports.run_files import check_writable, write_atomically
    from anysize.reports.text_table import TextTable

    given = {**parse_settings(settings), **({"model.norm": norm} if norm else {})}
    sides = _numbers("sizes", sizes)
    if runtime or is_exported(model):
        if fold or precision != "float32" or device not in ("auto", "cpu"):
            raise UserError(
                "runtimes are measured in float32 on the CPU, norms folded; leave --fold, --precision and --device out"
            )
        if csv:
            check_writable(Path(csv))
        names = [name.strip() for name in runtime.split(",") if name.strip()]
        if runtime and not names:
            raise UserError(f"--runtime is {runtime!r}; expected names such as torch,onnxruntime")
        _bench_runtimes(model, names, given, task, sides, _numbers("batch", batch), threads, repeats, csv, checkpoint)
        return
    built, expected = named_model(model, given, task=task, size=max(sides, default=None), checkpoint=checkpoint)
    if csv:
        check_writable(Path(csv))  # before minutes are spent on the figures
    with progress("measuring") as say:
        result = bench(
            built,
            sides or [expected.image_size],
            _numbers("batch", batch),
            in_channels=expected.channels,
            on_row=lambda row: say(f"measured {row['mode']} at {row['size']} px, batch {row['batch']}"),
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


def _find_batch(recipe: str, settings: dict[str, str]) -> None:
    check_recipe(recipe, settings)
    from anysize.experiment.find_batch import SPARED
    from anysize.experiment.find_batch import find_batch as find
    from anysize.registry import counted
    from anysize.reports.console import progress

    with progress("trying") as say:
        found = find(recipe, settings, on_try=lambda batch: say(f"a batch of {batch:,}"))
    why = "which are all there are" if found.all_images else "the largest that fits"
    memory, free, left = (f"{value / 2**30:,.1f} GiB" for value in (found.memory, found.free, found.left))
    how = "as tried" if found.tried else f"as computed, and {SPARED:.0%} are spared for what is not"
    tell(f"largest batch: --training.batch-size {found.batch_size} ({why})")
    tell(
        f"its largest step has {counted(found.images, 'image')} at {found.size} px; training takes {memory} of the "
        f"{free} that are free, {how}; {left} are left"
    )


def _bench_runtimes(
    model: str, names: list[str], settings: dict[str, str], task: str, sizes: list[int], batches: list[int],
    threads: int, repeats: int, csv: str, checkpoint: str,
) -> None:  # fmt: skip
    from anysize.experiment.bench import in_runtimes
    from anysize.export.look import look_at
    from anysize.export.processor import int8_instructions
    from anysize.export.runtimes import FORMATS
    from anysize.models.measure.speed import bench_runtimes
    from anysize.reports.console import progress, show_table
    from anysize.reports.environment import describe_environment
    from anysize.reports.run_files import write_atomically
    from anysize.reports.text_table import TextTable

    names = names or [next(name for name, format in FORMATS.items() if model.endswith(f".{format}"))]
    largest = max(sizes, default=None)
    opened = in_runtimes(model, names, settings, task=task, size=largest, threads=threads, checkpoint=checkpoint)
    with progress("measuring") as say, opened as (ready, says, expected):
        if not sizes and expected is None:
            raise UserError(f"{model} does not tell the size of its images; give --sizes, such as 224")
        result = bench_runtimes(
            ready,
            sizes or [expected.image_size],  # type: ignore[union-attr]
            batches,
            channels=expected.channels if expected else look_at(model).channels or 3,
            repeats=repeats,
            on_row=lambda row: say(f"measured {row['runtime']} at {row['size']} px, batch {row['batch']}"),
        )
    rows = []
    for row in result.astype(object).to_dict("records"):
        spread = (row["slowest"] - row["fastest"]) / row["milliseconds"]
        memory = f"{row['memory'] / 2**20:,.0f} MiB" if row["memory"] == row["memory"] and row["memory"] else ""
        times = (
            f"{row['images_per_second']:,.1f}",
            f"{row['milliseconds']:,.2f}",
            f"{spread:.0%}",
            f"{row['times']:.2f}",
        )
        rows.append([row["runtime"], f"{row['size']} px", str(row["batch"]), *times, memory])
    header = "runtime", "size", "batch", "images/s", "ms a step", "spread", "times the first", "memory"
    show_table(TextTable(header, rows, title=f"{model}, inference, float32 unless quantized"))
    machine = describe_environment()
    about = "; ".join([f"torch {machine['torch']}", *says.values()])
    print(
        f"{machine.get('processor', '')}, {machine['cores']} cores, threads: {threads or 'as they choose'}, int8 "
        f"instructions: {', '.join(int8_instructions()) or 'none'}; {about}; medians of {repeats} rounds, in which "
        "the runtimes take turns"
    )
    if csv:
        write_atomically(Path(csv), result.to_csv(index=False))
        print(f"{csv} is written")


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--{name} is {text!r}; expected numbers such as 128,224") from None
