"""What `state.json` of a checkpoint looks like: it may be damaged with a right checksum, or come from somebody else."""

import re
from typing import Any

from anysize.forms import Form, Unfit, each, fields, number, one_of, optional, table, text
from anysize.preprocessing import FORM as PREPROCESSING

_COUNT = number(0, 10**30, whole=True)
_CLASSES = number(1, 10**7, whole=True)
_BITS = one_of(7, 8)


def _anything(value: Any, where: str) -> Any:
    return value


def _name(value: Any, where: str) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z_]{1,64}\.safetensors", value):
        raise Unfit(where, value, "the name of a file in the folder, PART.safetensors")
    return value


def _options(value: Any, where: str) -> Any:
    kept = {"bits": _BITS, "keep": each(text())}
    known = {"quantized": fields({"biases": one_of(True, False)}, **kept), "quantize_aware": fields(**kept)}
    name = fields(name=text(200), options=table(_anything))(value, where)["name"]
    return known.get(name, _anything)(value["options"], f"{where}.options")


_MODEL = fields(
    {
        "num_classes": optional(_CLASSES),
        "in_channels": _CLASSES,
        "task": text(200),
        "options": table(_anything),
        "image_size": number(0, 10**6, whole=True),
        "changes": each(_options, most=100),
        "elasticize": _anything,
        "norm": text(200),
        "norm_options": optional(table(_anything)),
    },
    name=text(),
)
_PROGRESS = fields(
    {
        **dict.fromkeys(("epoch", "step_in_epoch", "step", "images", "flops", "epoch_images"), _COUNT),
        **dict.fromkeys(("seconds", "epoch_seconds", "epoch_waiting", "lr"), number()),
        "best": lambda value, where: None if isinstance(value, float) else optional(number())(value, where),  # NaN, too
    }
)
FILES: Form = table(fields(bytes=number(0, 10**15, whole=True), blake2b=text(64)), most=100, key=_name)
STATE: Form = fields(
    {
        "model": _MODEL,
        "preprocessing": PREPROCESSING,
        "progress": _PROGRESS,
        "images": _COUNT,
        "task": text(200),
        "decoder": text(200),
        "data": table(fields(digest=text(200), images=_COUNT, bytes=_COUNT), most=10),
    },
    files=FILES,
)
"""What is used of it; all else is taken as it is by the parts of the state that wrote it."""
