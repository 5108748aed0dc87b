"""Settings of training and of the optimizer. Imports no torch."""

import dataclasses

from anysize.registry import setting
from anysize.training.regime import Schedule, constant


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The `[optimizer]` section of a recipe. Each setting marked (by epoch) is a number or a list of points."""

    name: Schedule = setting(constant("sgd"), "sgd, adam, adamw or rmsprop (by epoch)")
    epochs: int = setting(
        0, "epochs that the lists of points are written for; they stretch to training.epochs; 0: no stretching", low=0
    )
    batch_size: int = setting(
        0,
        "batch, over all processes, that lr and momentum are written for: a run with another batch scales both (sgd); "
        "0: no scaling",
        low=0,
    )
    batch_rule: str = setting(
        "momentum",
        "how lr follows the batch where batch_size is set",
        choices=("none", "linear", "sqrt", "momentum"),
    )
    lr: Schedule = setting(constant(0.1), "learning rate (by epoch)")
    head_lr: float = setting(
        1.0,
        "learning rate of the head, as a multiple of lr: of the last linear layer, or of what makes a segmentation of "
        "the features",
        low=0,
    )
    momentum: Schedule = setting(constant(0.9), "momentum of sgd and rmsprop (by epoch)")
    weight_decay: Schedule = setting(constant(1e-4), "weight decay: L2, decoupled for adamw (by epoch)")
    decay_on: str = setting(
        "weights",
        "weights: decay no biases and no norms; no-biases: every parameter but biases; all: every parameter",
        choices=("weights", "no-biases", "all"),
    )
    norm_weight_decay: float = setting(-1.0, "weight decay of norms; -1: as decay_on says", low=-1)
    nesterov: bool = setting(False, "Nesterov momentum (sgd)")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the moment averages (adam, adamw)")
    alpha: float = setting(0.99, "smoothing constant (rmsprop)", low=0, high=1)
    eps: float = setting(1e-8, "added to the denominator (adam, adamw, rmsprop)", low=0)
    warmup_epochs: float = setting(0.0, "the learning rate grows linearly to its value over this many epochs", low=0)
    warmup_start: float = setting(0.0, "share of the learning rate that warm-up starts from", low=0, high=1)
    warmup_method: str = setting("linear", "shape of the warm-up", choices=("linear", "constant"))
    update: str = setting("step", "how often the schedules move", choices=("step", "epoch"))
    gradient_smoothing: float = setting(
        0.0,
        "scale each gradient to the moving average of its global norm, with this momentum (0.9 in Mix & Match); 0: off",
        low=0,
        high=0.9999,
    )
    clip_norm: float = setting(0.0, "clip the global norm of the gradient to this; 0: off", low=0)
    adapt_copies: int = setting(
        0,
        "every this many steps of a size with copies, measure how much smaller the gradient of all copies is than that "
        "of one, and scale the loss up by it; 0: off",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """The `[training]` section of a recipe."""

    epochs: int = setting(90, "passes over the training images", low=1)
    equal_flops: bool = setting(
        False, "train for the FLOPs of `epochs` epochs at the base size instead of for that many passes"
    )
    batch_size: int = setting(64, "samples a step and a process at the base size", low=1)
    copies: int = setting(1, "augmented copies of each sample at the base size (batch augmentation)", low=1)
    repeats: int = setting(1, "repeated augmentation", low=1)
    chunks: int = setting(1, "cut each batch into this many parts and accumulate their gradients", low=1)
    drop_last: bool = setting(
        True, "leave out the samples that do not fill a batch; a size that fills none makes one smaller batch"
    )
    seed: int = setting(0, "everything random follows from it", low=0)
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, ...")
    precision: str = setting("float32", "arithmetic of the forward pass", choices=("float32", "bfloat16", "float16"))
    channels_last: bool = setting(True, "keep images and weights in channels-last memory order (faster)")
    compile: bool = setting(False, "compile the model with torch.compile, once for each distinct input shape")
    compile_shapes: int = setting(12, "refuse to compile a run with more distinct input shapes than this", low=1)
    average_steps: int = setting(
        0,
        "steps between two updates of averaged weights (exponential moving average), which validation, the best "
        "checkpoint and evaluation then use; 32 in torchvision's reference training; 0: none",
        low=0,
    )
    average_decay: float = setting(
        0.99998,
        "decay of the averaged weights, adjusted to batch size and length as torchvision's reference training does: "
        "1 - (1 - decay) x batch of all processes x average_steps / epochs",
        low=0,
        high=1,
    )
    log_every: int = setting(
        10, "steps between two looks of the host at losses and failures, which are that many steps old", low=1
    )
    validate_every: int = setting(1, "epochs between validations; the last epoch is always validated", low=1)
    checkpoint_minutes: float = setting(10.0, "save at least this often within an epoch; 0: after every step", low=0)
