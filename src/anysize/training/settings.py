"""Settings of training and of the optimizer. Imports no torch."""

import dataclasses

from anysize.registry import setting
from anysize.sizes.second_size import TEACHERS
from anysize.training.regime import FLOAT32_MAX, Schedule, constant


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The `[optimizer]` section of a recipe. Each setting marked (by epoch) is a number or a list of points."""

    name: Schedule = setting(constant("sgd"), "sgd, adam, adamw, rmsprop or muon (by epoch)")
    epochs: int = setting(
        0,
        "epochs that the lists of points are written for; they stretch to training.epochs; 0: no stretching",
        low=0,
        high=10**6,
    )
    batch_size: int = setting(
        0,
        "batch, over all processes, that lr and momentum are written for: a run with another batch scales them as "
        "batch_rule says; 0: no scaling",
        low=0,
        high=10**9,
    )
    batch_rule: str = setting(
        "momentum",
        "how another batch than batch_size scales: linear: lr with the batch; sqrt: lr with its square root; momentum: "
        "lr and momentum, to average over as many samples (sgd); none: nothing",
        choices=("none", "linear", "sqrt", "momentum"),
    )
    lr: Schedule = setting(constant(0.1), "learning rate (by epoch)", low=0, high=FLOAT32_MAX)
    lr_by_batch: str = setting(
        "none",
        "how the learning rate of a step follows the batch of its image size, against that of the base size: linear, "
        "sqrt: with its square root, none: not at all",
        choices=("none", "linear", "sqrt"),
    )
    lr_by_size: dict[str, float] = setting(
        {},
        "size in pixels = multiple of the learning rate in steps of that size, interpolated between sizes",
        low=0,
        high=1e6,
    )
    head_lr: float = setting(
        1.0,
        "learning rate of the head, as a multiple of lr: of the last linear layer, or of what makes a segmentation of "
        "the features",
        low=0,
        high=FLOAT32_MAX,
    )
    layer_decay: float = setting(
        1.0,
        "learning rate of each stage of the network as a multiple of that of the stage behind it, the head's being lr "
        "times head_lr (0.7 to 0.9 are usual for fine-tuning); 1: all alike",
        low=0.01,
        high=1,
    )
    trained_until: dict[str, float] = setting(
        {},
        "parts of the network that are trained in the first epochs alone, as {name = epochs} of modules or parameters: "
        "a factor of their learning rate falls from 1 linearly to 0 there",
        low=1e-6,
        high=10**6,
    )
    freeze: tuple[str, ...] = setting(
        (),
        "parts of the network whose weights stay as they are, such as conv1,bn1,layer1: names of modules or "
        "parameters, or patterns of parameters with *; norms in them go on normalising by the batch",
    )
    momentum: Schedule = setting(constant(0.9), "momentum of sgd, rmsprop and muon (by epoch)", low=0, high=1)
    other_lr: float = setting(
        1.0,
        "muon: learning rate of what is no matrix of the network's inside, such as biases, as a multiple of lr; sgd "
        "moves that, and the head with head_lr times lr",
        low=0,
        high=FLOAT32_MAX,
    )
    other_momentum: float = setting(0.9, "muon: momentum of what sgd moves", low=0, high=1)
    newton_schulz_steps: int = setting(
        5, "muon: steps of the iteration, in bfloat16, that makes a gradient orthogonal", low=1, high=50
    )
    filter_norm: bool = setting(
        False, "muon: scale each filter bank and matrix to the norm sqrt(outputs) before each step"
    )
    weight_decay: Schedule = setting(
        constant(1e-4), "weight decay: L2, decoupled for adamw and muon (by epoch)", low=0, high=FLOAT32_MAX
    )
    decay_on: str = setting(
        "weights",
        "weights: decay no biases and no norms; no-biases: every parameter but biases; all: every parameter",
        choices=("weights", "no-biases", "all"),
    )
    norm_weight_decay: float = setting(
        -1.0, "weight decay of the parameters of norms; -1: as decay_on says", low=0, high=FLOAT32_MAX, besides=-1
    )
    bias_weight_decay: float = setting(
        -1.0,
        "weight decay of what is named bias, those of norms too; -1: as norms and decay_on say",
        low=0,
        high=FLOAT32_MAX,
        besides=-1,
    )
    custom_weight_decay: dict[str, float] = setting(
        {},
        "weight decay of parameters by their name or its last part, such as class_token; goes before all others",
        low=0,
        high=FLOAT32_MAX,
    )
    nesterov: bool = setting(False, "Nesterov momentum (sgd, muon)")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the moment averages (adam, adamw)", low=0, high=1)
    alpha: float = setting(0.99, "smoothing constant (rmsprop)", low=0, high=1)
    eps: float = setting(1e-8, "added to the denominator (adam, adamw, rmsprop)", low=0, high=1000)
    warmup_epochs: float = setting(0.0, "the learning rate is smaller during this many epochs", low=0, high=10**6)
    warmup_method: str = setting(
        "linear",
        "linear: the learning rate grows from warmup_start of its value to all of it; constant: it is warmup_start of "
        "its value until warm-up ends",
        choices=("linear", "constant"),
    )
    warmup_start: float = setting(0.0, "share of the learning rate that warm-up starts from", low=0, high=1)
    update: str = setting(
        "step",
        "how often warm-up and lists of points move: at each step, or at whole epochs alone as torchvision's reference "
        "training",
        choices=("step", "epoch"),
    )
    gradient_smoothing: float = setting(
        0.0,
        "scale each gradient to the moving average of its global norm, with this momentum (0.9 in Mix & Match); 0: off",
        low=0,
        high=0.9999,
    )
    size_weights: dict[str, float] = setting(
        {},
        "size = factor of the gradients of steps at this size, behind clipping and smoothing; sizes that are not named "
        "have 1",
        low=1e-6,
        high=1e6,
    )
    weigh_sizes: str = setting(
        "",
        "variance: weigh the gradients of each size, behind clipping and smoothing, by the inverse of their measured "
        "variance, with a mean of 1 over the steps of an epoch; keeps a running mean of the gradient for each size; "
        "empty: off",
        choices=("", "variance"),
    )
    clip_norm: float = setting(0.0, "clip the global norm of the gradient to this; 0: off", low=0, high=FLOAT32_MAX)
    adapt_copies: int = setting(
        0,
        "every this many steps of a size with copies, measure how much smaller the gradient of all copies is than that "
        "of one, and scale the loss up by it, for which its images are computed twice more; 0: off",
        low=0,
        high=10**9,
    )


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """The `[training]` section of a recipe."""

    epochs: int = setting(90, "passes over the training images", low=1, high=10**6)
    equal_flops: bool = setting(
        False, "train for the FLOPs of `epochs` epochs at the base size instead of for that many passes"
    )
    batch_size: int = setting(64, "samples a step and a process at the base size", low=1, high=10**6)
    copies: int = setting(1, "augmented copies of each sample at the base size (batch augmentation)", low=1, high=1000)
    repeats: int = setting(
        1,
        "turns of a sample in an epoch, each augmented by itself (repeated augmentation); the epoch is no longer: it "
        "sees one in this many of the samples",
        low=1,
        high=1000,
    )
    chunks: int = setting(1, "cut each batch into this many parts and accumulate their gradients", low=1, high=10**6)
    micro_batches: str = setting(
        "off",
        "where a step does not fit into memory: off: stop; auto: cut batches into twice as many parts, until it fits",
        choices=("off", "auto"),
    )
    drop_last: bool = setting(
        True, "leave out the samples that do not fill a batch; a size that fills none makes one smaller batch"
    )
    limit_steps: float = setting(
        0.0,
        "steps that an epoch is cut to, each size keeping its share, or below 1 the share of its steps; 0: all. "
        "data.limit uses fewer images instead, the same in each epoch",
        low=0,
        high=10**9,
    )
    limit_validation: float = setting(
        0.0,
        "batches of images, spread over the classes, that a validation during training looks at, or below 1 the share "
        "of the images; 0: all",
        low=0,
        high=10**9,
    )
    overfit_batches: int = setting(
        0,
        "train the same so many batches in each epoch, without augmentation, and validate on their images: a network "
        "that can learn reaches a loss near 0; a mixture whose weights move stays as it ends; 0: off",
        low=0,
        high=10**9,
    )
    seed: int = setting(0, "everything random follows from it", low=0, high=2**63 - 1)
    device: str = setting("auto", "auto: a CUDA device where there is one; cpu, cuda, cuda:1, mps, ...")
    precision: str = setting(
        "float32",
        "arithmetic of the forward pass; auto: bfloat16 where CUDA has it, or where a measured step on the CPU is "
        "faster by a tenth, else float32",
        choices=("float32", "bfloat16", "float16", "auto"),
    )
    deterministic: bool = setting(
        False,
        "use operations alone that give the same bits each time (slower); an operation that has no such form "
        "stops the run",
    )
    channels_last: bool = setting(True, "keep images and weights in channels-last memory order (faster)")
    compile: bool = setting(False, "compile the model with torch.compile, once for each distinct input shape")
    compile_shapes: int = setting(
        12, "refuse to compile a run with more distinct input shapes than this", low=1, high=10**6
    )
    dropout_by_size: dict[str, float] = setting(
        {},
        "size in pixels = multiple of the model's dropout and stochastic depth in steps of that size, interpolated "
        "between sizes",
        low=0,
        high=1e6,
    )
    dropout_by_epoch: dict[str, float] = setting(
        {},
        "epoch (pass over the images, from 0) = multiple of the model's dropout and stochastic depth, interpolated "
        "between epochs",
        low=0,
        high=1e6,
    )
    average_steps: int = setting(
        0,
        "steps between two updates of averaged weights (exponential moving average), which validation, the best "
        "checkpoint and evaluation then use; 32 in torchvision's reference training; 0: none",
        low=0,
        high=10**9,
    )
    average_decay: float = setting(
        0.99998,
        "decay of the averaged weights, adjusted to batch size and length as torchvision's reference training does: "
        "1 - (1 - decay) x batch of all processes x average_steps / epochs",
        low=0,
        high=1,
    )
    statistics: str = setting(
        "averaged",
        "running statistics of norms, where several processes train: averaged: those of all processes pooled, for "
        "evaluation and in checkpoints; first: those of process 0; each: every process evaluates all images with its "
        "own, the mean of the figures is reported and process 0's are saved (ELASTIC); model.norm = sync_batch has one "
        "for all",
        choices=("averaged", "first", "each"),
    )
    find_unused_parameters: bool = setting(
        False,
        "look in each step for parameters without a gradient, for a model that leaves out other parts of itself in "
        "each step; where several processes train",
    )
    timeout_minutes: float = setting(
        10.0,
        "minutes that a process waits for the others, to meet them and in a step, before it gives up",
        low=0.05,
        high=10**6,
    )
    distill: str = setting(
        "",
        "who teaches besides the targets: larger: the network itself, at second_size, teaches the samples of smaller "
        "steps; averaged: the averaged weights (average_steps), at the step's own size; averaged-larger: these at "
        "second_size, or at the step's own size where that is larger; empty: nobody",
        choices=TEACHERS,
    )
    distill_weight: Schedule = setting(
        constant(1.0), "factor of the teacher's loss, beside the task's own (by epoch)", low=0, high=FLOAT32_MAX
    )
    distill_temperature: float = setting(
        1.0,
        "temperature that the logits of both are divided by before they are compared; the loss is multiplied by its "
        "square",
        low=0.01,
        high=1000,
    )
    second_size: str = setting(
        "base",
        "the larger size at which the samples of smaller steps are computed, too: base: the base size; largest: the "
        "largest of the run",
        choices=("base", "largest"),
    )
    both_sizes: bool = setting(
        False, "train the samples of steps below second_size at that size, too: the loss is the mean of both"
    )
    consistency: float = setting(
        0.0,
        "factor of a loss by how far the logits of a sample at the step's own size and at second_size lie apart, whose "
        "gradient goes through both; 0: off",
        low=0,
        high=FLOAT32_MAX,
    )
    consistency_loss: str = setting(
        "divergence",
        "divergence: the mean of both Kullback-Leibler divergences; smooth-l1: of the logits (ResFormer)",
        choices=("divergence", "smooth-l1"),
    )
    log_every: int = setting(
        10,
        "steps between two looks of the host at losses and failures, which are that many steps old",
        low=1,
        high=10**6,
    )
    validate_every: int = setting(
        1, "epochs between validations; the last epoch is always validated", low=1, high=10**6
    )
    early_stopping: int = setting(
        0,
        "end the run where the metric that chooses the best checkpoint has not risen in so many epochs; 0: train all "
        "epochs",
        low=0,
        high=10**6,
    )
    early_stopping_delta: float = setting(
        0.0, "it has risen where it is higher by more than this than when it last rose", low=0, high=FLOAT32_MAX
    )
    checkpoint_minutes: float = setting(
        10.0, "save at least this often within an epoch; 0: after every step", low=0, high=10**6
    )
    checkpoint_steps: int = setting(0, "save every so many steps, too; 0: by time alone", low=0, high=10**9)
    keep_previous: int = setting(
        1,
        "saves that are kept beside the last one: previous, previous-2 (the one before) and so on; more of them reach "
        "farther back where a divergence was saved before it showed",
        low=1,
        high=1000,
    )
    keep_best: int = setting(
        1,
        "best checkpoints that are kept: best, best-2 (the validation behind it) and so on, each as it was validated",
        low=1,
        high=100,
    )
    checkpoint_background: bool = setting(
        True,
        "write checkpoints beside the training, which takes memory for one more copy of the weights and of the "
        "optimizer's state (on a CPU, or beside the GPU); false: training waits for the files",
    )
