"""`anysize evaluate RUN|RECIPE|FILE`."""

from anysize.cli import Settings, check_run, parse_settings, say_written, tell, with_device

_OTHERS = 4  # earlier evaluations that are told


def command(
    run: str,
    /,
    *settings: Settings,
    sizes: str = "",
    calibrate: bool = True,
    calibration: str = "",
    checkpoint: str = "last",
    split: str = "validation",
    budget: str = "",
    device: str = "",
    runtime: str = "",
    threads: int = 0,
    latency: bool = False,
) -> None:
    """Accuracy of a run by image size, as trained and calibrated for each size; or of an exported file.

    Adds to evaluation.csv and renews report.html in the run folder, or adds to FILE.evaluation.csv: rows of other
    sizes, checkpoints, splits and test-time settings stay there.

    Args:
        run: the run folder, a recipe whose published weights are evaluated, such as torchvision/resnet18, or an ONNX
            or pt2 file
        sizes: START:STOP:STEP (STOP included) or a list 16,24,32; by default from half to one and a half times the
            base, of a recipe's published weights the size they are for
        calibrate: also evaluate with the norms calibrated for each size, as far as that is better on held-out images;
            wholly with --evaluation.calibration_strength full
        calibration: a folder of any pictures, without labels, that calibrate in place of the training images
        checkpoint: last: as training ended; best: as validated best (best-2 and so on where training.keep_best keeps
            more); calibrated-SIZE: a copy written by `anysize calibrate`
        split: the images: validation; test: for the final figure, where there are test images; or train
        budget: name the best size that costs at most this an image, such as 50MFLOPs or 2ms
        device: auto, cpu, cuda, cuda:1, mps, ...: --training.device
        runtime: onnxruntime, openvino, torch or inductor; by default PyTorch for a run, onnxruntime for an ONNX file
        threads: of the runtime; 0: as many as it chooses
        latency: also measure how long one image alone takes; images/s is of whole batches
    """
    overrides = with_device(parse_settings(settings), device)
    check_run(run, overrides)
    from rich.console import Console

    from anysize.evaluation.sizes import best_for_budget, parse_budget, seconds_of
    from anysize.experiment.evaluate import evaluate
    from anysize.experiment.published import run_folder
    from anysize.export.look import is_exported
    from anysize.ranks import main_process
    from anysize.reports.columns import label, show
    from anysize.reports.console import progress, show_table
    from anysize.reports.reading import Run
    from anysize.reports.tables import evaluation_metrics, evaluation_table

    if budget:
        parse_budget(budget)  # before an evaluation that takes minutes
    with progress("evaluating", Console(quiet=not main_process())) as say:
        table = evaluate(
            run,
            sizes or None,
            calibrate=calibrate,
            calibration=calibration or None,
            checkpoint=checkpoint,
            split=split,
            overrides=overrides,
            on_progress=say,
            runtime=runtime,
            threads=threads,
            latency=latency,
        )
    if not main_process():
        return
    show_table(evaluation_table(table))
    say_written(table.attrs["written"])
    if not is_exported(run) and not runtime and len(table.attrs["written"]) == 2:  # what is read here is whole
        others = [what for what, rows in Run.read(run_folder(run)).other_evaluations.items() if len(rows)]
        copies = {*table["checkpoint"]} - {checkpoint}  # shown above
        others = [what for what in others if what.partition(",")[0] not in copies]
        if others:
            more = f" and {len(others) - _OTHERS} more" if len(others) > _OTHERS else ""
            tell(f"evaluation.csv keeps the rows of earlier evaluations, too: {'; '.join(others[:_OTHERS])}{more}")
    if budget:
        metric = evaluation_metrics(table)[0]
        row = best_for_budget(table.assign(seconds=seconds_of(table)), budget, metric)
        how = "calibrated" if row["calibrated"] else "as trained" if row["checkpoint"] == checkpoint else "adapted"
        tell(
            f"best for {budget}: {row['size']} px {how}, {label(metric)} {show(metric, row[metric])}, "
            f"{show('flops', row['flops'])} and {1000 * row['seconds']:.2f} ms an image"
        )
