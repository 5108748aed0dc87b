"""`anysize quantize RUN`."""

from anysize.cli import Settings, check_run, parse_settings, tell, with_device


def command(
    run: str,
    /,
    *settings: Settings,
    sizes: str = "",
    checkpoint: str = "best",
    calibration: str = "",
    calibration_batches: int = 32,
    calibration_batch_size: int = 32,
    observer: str = "mse",
    rounding: str = "compensated",
    bits: int = 8,
    keep: str = "",
    correct_bias: bool = False,
    max_accuracy_drop: float | None = None,
    onnx: bool = True,
    compare: bool = True,
    threads: int = 0,
    name: str = "",
    device: str = "",
) -> None:
    """Write a run's model in int8, as a checkpoint of the run and as one ONNX file, and compare it with the original.

    Args:
        run: the run folder, or a recipe whose published weights are quantized, such as torchvision/resnet18
        sizes: START:STOP:STEP or a list 160,224 of the image sizes to calibrate for; by default the base size
        checkpoint: what is quantized: best, best-2, last, previous or calibrated-SIZE
        calibration: a folder of any pictures, without labels, that calibrate in place of the training images
        calibration_batches: batches of images that calibrate
        calibration_batch_size: images in each of them
        observer: of the ranges of values: mse, histogram, minmax or moving_average
        rounding: of weights: compensated (the errors of a layer make up for each other) or nearest
        bits: of weights: 8, or 7 for processors that add products up in 16 bits
        keep: names of layers that stay in float, separated by commas; patterns such as layer1.* are taken, too
        correct_bias: shift the channels of each layer to the mean that they have in float
        max_accuracy_drop: percentage points that may be lost; the worst layers stay in float until it holds
        onnx: write export/NAME.onnx in the run, for ONNX Runtime, OpenVINO and TensorRT
        compare: measure both models on the validation images, and in ONNX Runtime in turn
        threads: of ONNX Runtime; 0: as many as it chooses
        name: of the checkpoint; by default int8, with the sizes where they are not the base size
        device: auto, cpu, cuda, cuda:1, mps, ...: --training.device
    """
    overrides = with_device(parse_settings(settings), device)
    check_run(run, overrides)
    from rich.console import Console

    from anysize.experiment.compare_int8 import compare_with_original
    from anysize.experiment.quantize import quantize_run
    from anysize.quantize.after_training import QuantizeOptions
    from anysize.reports.console import progress, show_table
    from anysize.reports.quantization import comparison_table, layers_table, speed_table

    kept = tuple(part.strip() for part in keep.split(",") if part.strip())
    options = QuantizeOptions(observer, rounding, bits, kept, correct_bias)
    console = Console()
    with progress("calibrating", console):
        made = quantize_run(
            run,
            sizes or None,
            checkpoint=checkpoint,
            calibration=calibration or None,
            calibration_batches=calibration_batches,
            calibration_batch_size=calibration_batch_size,
            options=options,
            max_accuracy_drop=max_accuracy_drop,
            name=name,
            onnx=onnx,
            overrides=overrides,
            say=tell,
        )
    if compare:
        with progress("comparing", console):
            result = compare_with_original(made, overrides, threads=threads)
        show_table(layers_table(result.layers))
        show_table(comparison_table(result.sizes))
        if made.exported:
            show_table(speed_table(result.sizes))
