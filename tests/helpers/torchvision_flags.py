"""torchvision's command for training, as the settings that do the same: an account of its own of the flags."""

import argparse
from typing import Any

import torch
from torch.optim import lr_scheduler as schedulers

FLAGS: dict[str, Any] = {
    "data-path": "", "model": "resnet18", "device": "cuda", "batch-size": 32, "epochs": 90, "workers": 16, "opt": "sgd",
    "lr": 0.1, "momentum": 0.9, "weight-decay": 1e-4, "norm-weight-decay": None, "bias-weight-decay": None,
    "transformer-embedding-decay": None, "label-smoothing": 0.0, "mixup-alpha": 0.0, "cutmix-alpha": 0.0,
    "lr-scheduler": "steplr", "lr-warmup-epochs": 0, "lr-warmup-method": "constant", "lr-warmup-decay": 0.01,
    "lr-step-size": 30, "lr-gamma": 0.1, "lr-min": 0.0, "print-freq": 10, "output-dir": ".", "resume": "",
    "start-epoch": 0, "cache-dataset": False, "sync-bn": False, "test-only": False, "auto-augment": None,
    "ra-magnitude": 9, "augmix-severity": 3, "random-erase": 0.0, "amp": False, "world-size": 1, "dist-url": "env://",
    "model-ema": False, "model-ema-steps": 32, "model-ema-decay": 0.99998, "use-deterministic-algorithms": False,
    "interpolation": "bilinear", "val-resize-size": 256, "val-crop-size": 224, "train-crop-size": 224,
    "clip-grad-norm": None, "ra-sampler": False, "ra-reps": 3, "weights": None, "backend": "PIL", "use-v2": False,
}  # fmt: skip
"""The flags of references/classification/train.py with their defaults."""

_NO_NUMBERS = ("norm-weight-decay", "bias-weight-decay", "transformer-embedding-decay", "clip-grad-norm")


def parse(words: list[str]) -> argparse.Namespace:
    """The flags of a command, behind the name of the script."""
    parser = argparse.ArgumentParser()
    for name, default in FLAGS.items():
        names = {"batch-size": ["-b"], "workers": ["-j"], "weight-decay": ["--wd"]}.get(name, [])
        if default is False:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            kind = float if name in _NO_NUMBERS else str if default is None else type(default)
            parser.add_argument(f"--{name}", *names, type=kind, default=default)
    parser.add_argument("--apex", dest="amp", action="store_true")
    parser.add_argument("--policy-magnitude")  # is in the README, and no flag of the script
    return parser.parse_args(words)


def rates(flags: argparse.Namespace) -> list[float]:
    """The learning rate of each epoch, by torch's own schedulers put together as in the script."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=flags.lr)
    warmup = flags.lr_warmup_epochs
    if flags.lr_scheduler == "steplr":
        main: Any = schedulers.StepLR(optimizer, flags.lr_step_size, flags.lr_gamma)
    else:
        main = schedulers.CosineAnnealingLR(optimizer, flags.epochs - warmup, flags.lr_min)
    if warmup:
        assert flags.lr_warmup_method == "linear"
        first = schedulers.LinearLR(optimizer, flags.lr_warmup_decay, total_iters=warmup)
        main = schedulers.SequentialLR(optimizer, [first, main], [warmup])
    found = []
    for _ in range(flags.epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        main.step()
    return found


def expected(flags: argparse.Namespace) -> dict[str, Any]:
    """What our settings are to be for the same training, but for the learning rate."""
    augment = {None: "", "ra": "randaugment", "ta_wide": "trivialaugment"}
    decay = flags.transformer_embedding_decay

    def given(value: float | None, otherwise: float) -> float:
        return otherwise if value is None else value

    return {
        "training.epochs": flags.epochs,
        "training.batch_size": flags.batch_size,
        "training.repeats": flags.ra_reps if flags.ra_sampler else 1,
        "training.average_steps": flags.model_ema_steps if flags.model_ema else 0,
        "training.average_decay": flags.model_ema_decay,
        "training.precision": "float16" if flags.amp else "float32",
        "training.chunks": 1,
        "training.drop_last": False,
        "optimizer.name": flags.opt,
        "optimizer.momentum": flags.momentum,
        "optimizer.weight_decay": flags.weight_decay,
        "optimizer.norm_weight_decay": given(flags.norm_weight_decay, -1),
        "optimizer.bias_weight_decay": given(flags.bias_weight_decay, -1),
        # Of the three names that the flag stands for, Swin v1 and MaxViT have this one, and Swin v2 none.
        "optimizer.custom_weight_decay": (
            {"relative_position_bias_table": decay} if decay is not None and "v2" not in flags.model else {}
        ),
        "optimizer.decay_on": "all",
        "optimizer.clip_norm": given(flags.clip_grad_norm, 0),
        "optimizer.update": "epoch",
        "optimizer.nesterov": False,
        "optimizer.alpha": 0.9 if flags.opt == "rmsprop" else 0.99,
        "optimizer.eps": 0.0316 if flags.opt == "rmsprop" else 1e-8,
        "task.label_smoothing": flags.label_smoothing,
        "augment.mixup": flags.mixup_alpha,
        "augment.cutmix": flags.cutmix_alpha,
        "augment.autoaugment": augment.get(flags.auto_augment, flags.auto_augment),
        "augment.magnitude": flags.ra_magnitude,
        "augment.random_erasing": flags.random_erase,
        "model.norm": "sync_batch" if flags.sync_bn else "",
        "sizes.base": flags.val_crop_size,
    }
