"""The hyper-parameters of Online Normalization, checked once, for the modules and for every backend."""

import dataclasses
import math

from anysize.registry import UserError, did_you_mean

ERROR_COMPENSATION = ("ls", "ac", "none")


@dataclasses.dataclass(frozen=True)
class Options:
    """The hyper-parameters of Online Normalization, as the backends receive them; `OnlineNorm2d` says what each is.

    Raises:
        UserError: a value out of range.

    >>> Options(alpha_fwd=1.5)
    Traceback (most recent call last):
    ...
    anysize.registry.UserError: alpha_fwd is 1.5; expected a decay factor above 0 and at most 1, such as 0.999
    """

    alpha_fwd: float = 0.999
    alpha_bkw: float = 0.99
    eps: float = 1e-5
    ecm: str = "ls"
    ls_eps: float = 1e-5
    clamp_val: float = 5.0
    group_size: int = -1
    alpha_min: float | None = None

    def __post_init__(self) -> None:
        for name, usual in (("alpha_fwd", 0.999), ("alpha_bkw", 0.99)):
            value = getattr(self, name)
            if not is_number(value) or not 0 < value <= 1:
                raise UserError(f"{name} is {value!r}; expected a decay factor above 0 and at most 1, such as {usual}")
        for name in ("eps", "ls_eps"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value < math.inf:
                raise UserError(f"{name} is {value!r}; expected a small number of at least 0, such as 1e-05")
        if self.ecm not in ERROR_COMPENSATION:
            hint = did_you_mean(str(self.ecm), ERROR_COMPENSATION)
            raise UserError(f"unknown error compensation ecm={self.ecm!r}: {hint}")
        if not is_number(self.clamp_val) or not 0 < self.clamp_val < math.inf:
            raise UserError(f"clamp_val is {self.clamp_val!r}; expected a number above 0, such as 5")
        if self.group_size != -1 and (not isinstance(self.group_size, int) or self.group_size < 1):
            raise UserError(f"group_size is {self.group_size!r}; expected a number of channels, or -1 for all of them")
        if self.alpha_min is not None and (not is_number(self.alpha_min) or not 0 <= self.alpha_min < 1):
            expected = "expected None or a number from 0 to below 1, such as 1e-05"
            raise UserError(f"alpha_min is {self.alpha_min!r}; {expected}")

    def groups(self, channels: int) -> int:
        """Groups of channels that are scaled together.

        Raises:
            UserError: `group_size` does not divide `channels`.
        """
        size = channels if self.group_size == -1 else self.group_size
        if channels % size:
            expected = "expected a divisor, or -1"
            raise UserError(f"group_size is {size}, which does not divide {channels} channels; {expected}")
        return channels // size


def is_number(value: object) -> bool:
    """Whether `value` is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
