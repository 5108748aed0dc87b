"""Schedules of sizes by epoch: phases, each a mixture, one size, a ramp of sizes (progressive resizing), or a mixture
whose weights move.

>>> schedule = SizeSchedule((
...     SizePhase(0, SizeMix.named("B+", base=32)),
...     SizePhase(8, SizeMix.fixed(32)),
... ))
>>> schedule.at(7).mix.sizes, schedule.at(8).mix.sizes
((32, 48, 24, 16), (32,))
"""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Mapping

from anysize.registry import UserError
from anysize.sizes.mix import SizeMix
from anysize.sizes.moving import GaussianWindow, MovingMix, WeightPoints, pixels_a_sample
from anysize.sizes.settings import MOVING, TAKERS, PhaseSettings, SizeSettings

_MOST_EPOCHS = 10**9  # of a run, at most


@dataclasses.dataclass(frozen=True)
class SizeRamp:
    """Sizes that grow (or shrink) evenly from `start` to `stop` over `epochs` epochs, rounded to `multiple` pixels.

    >>> ramp = SizeRamp(16, 32, epochs=5, multiple=4, base=32)
    >>> [ramp.mix(epoch).sizes[0] for epoch in range(6)]
    [16, 20, 24, 28, 32, 32]
    """

    start: int
    stop: int
    epochs: int
    base: int
    multiple: int = 4
    budget: str = ""

    def __post_init__(self) -> None:
        if min(self.start, self.stop) < 1 or self.epochs < 2 or self.multiple < 1:
            raise UserError(
                f"a ramp from {self.start} to {self.stop} px over {self.epochs} epochs in multiples of "
                f"{self.multiple}; expected positive sizes and at least 2 epochs"
            )

    def mix(self, epoch: int) -> SizeMix:
        """The single size of `epoch`, counted from the start of the ramp."""
        done = min(epoch / (self.epochs - 1), 1.0)
        size = self.start + done * (self.stop - self.start)
        rounded = max(self.multiple, round(size / self.multiple) * self.multiple)
        exact = {0.0: self.start, 1.0: self.stop}
        return SizeMix.fixed(exact.get(done, rounded), self.base, self.budget)

    def changes(self) -> list[int]:
        """The epochs from which on the size is another one, 0 among them, found without going over all epochs.

        >>> SizeRamp(16, 32, epochs=1_000_000, multiple=4, base=32).changes()[:3]
        [0, 125000, 375000]
        """
        found, last = [0], self.epochs - 1
        if last > 1:  # between its exact ends a ramp grows, or shrinks, all the way
            found.append(1)
            while (size := self.mix(found[-1])) != self.mix(last - 1):
                found.append(bisect.bisect(range(last), False, found[-1], key=lambda epoch: self.mix(epoch) != size))
        found.append(last)
        return [epoch for epoch in found if epoch == 0 or self.mix(epoch) != self.mix(epoch - 1)]


@dataclasses.dataclass(frozen=True)
class SizePhase:
    """From `epoch` on: sizes, and batch size or copies of its own where these are not 0."""

    epoch: int
    sizes: SizeMix | SizeRamp | MovingMix
    batch_size: int = 0
    copies: int = 0


@dataclasses.dataclass(frozen=True)
class EpochSizes:
    """The sizes of one epoch: its mixture, and its own batch size and copies (0: the run's)."""

    mix: SizeMix
    batch_size: int = 0
    copies: int = 0


@dataclasses.dataclass(frozen=True)
class SizeSchedule:
    """Phases in the order of their epochs; the first starts at epoch 0."""

    phases: tuple[SizePhase, ...]

    def __post_init__(self) -> None:
        epochs = [phase.epoch for phase in self.phases]
        if not epochs or epochs[0] != 0 or sorted(set(epochs)) != epochs:
            raise UserError(
                f"size phases start at epochs {epochs}; expected 0 first and each later than the one before"
            )

    @classmethod
    def constant(cls, mix: SizeMix) -> "SizeSchedule":
        """The same mixture in every epoch."""
        return cls((SizePhase(0, mix),))

    @classmethod
    def moving(cls, sizes: SizeRamp | MovingMix) -> "SizeSchedule":
        """A ramp, or a mixture whose weights move, from the first epoch on."""
        return cls((SizePhase(0, sizes),))

    def at_its_end(self) -> "SizeSchedule":
        """What the last phase comes to, in every epoch.

        >>> SizeSchedule.moving(SizeRamp(16, 32, epochs=5, base=32)).at_its_end().sizes(1)
        {32}
        """
        last = self.phases[-1]
        mix = last.sizes if isinstance(last.sizes, SizeMix) else last.sizes.mix(last.sizes.epochs)
        return SizeSchedule((SizePhase(0, mix, last.batch_size, last.copies),))

    def epochs_with_all_sizes(self, epochs: int, equal_flops: bool) -> int:
        """How many epochs hold all sizes of a run, before its length is known.

        `epochs` are those that it asks for; with `equal_flops` it ends by its FLOPs instead, about where its last phase
        has moved to its end.

        >>> schedule = SizeSchedule.moving(MovingMix(GaussianWindow((16, 32)), epochs=9, base=32))
        >>> [schedule.epochs_with_all_sizes(6, equal_flops) for equal_flops in (True, False)]
        [9, 6]
        """
        last = self.phases[-1]
        moved = last.epoch + (1 if isinstance(last.sizes, SizeMix) else last.sizes.epochs)
        return max(epochs, moved) if equal_flops else epochs

    def sizes(self, epochs: int) -> set[int]:
        """All sizes of the first `epochs` epochs."""
        return {size for span in self.spans(epochs) for size in self.at(span.start).mix.sizes}

    def spans(self, epochs: int) -> list[range]:
        """The first `epochs` epochs in their order, as ranges of epochs that have the same sizes.

        >>> SizeSchedule((SizePhase(0, SizeMix.fixed(16)), SizePhase(8, SizeMix.fixed(32)))).spans(1_000_000)
        [range(0, 8), range(8, 1000000)]
        """
        ends = [phase.epoch for phase in self.phases[1:]] + [epochs]
        starts = [
            phase.epoch + change
            for phase, end in zip(self.phases, ends, strict=True)
            for change in ([0] if isinstance(phase.sizes, SizeMix) else phase.sizes.changes())
            if phase.epoch + change < min(end, epochs)
        ]
        return [range(start, end) for start, end in itertools.pairwise([*starts, epochs])]

    def at(self, epoch: int) -> EpochSizes:
        """The sizes of `epoch`: a pure function."""
        phase = [phase for phase in self.phases if phase.epoch <= epoch][-1]
        mix = phase.sizes if isinstance(phase.sizes, SizeMix) else phase.sizes.mix(epoch - phase.epoch)
        return EpochSizes(mix, phase.batch_size, phase.copies)


def build_schedule(
    settings: SizeSettings,
    base: int,
    epochs: int,
    *,
    equal_flops: bool = False,
    beside: Callable[[int], float] = lambda size: 0.0,
) -> SizeSchedule:
    """Turn the `[sizes]` section of a recipe into a schedule around `base` pixels.

    `sizes.mix` holds until the first phase. Of a run that is as long as `epochs` epochs at the base size cost
    (`equal_flops`), a mixture that moves to its end moves over as many epochs as have the pixels of these; `beside` are
    pixels that an image of a size takes beside its own, as of `pixels_a_sample`.

    Raises:
        UserError: settings that do not fit together, such as `mix = "custom"` without weights.

    >>> settings = SizeSettings(mix="window", sizes=(16, 32), budget="B+")
    >>> build_schedule(settings, base=32, epochs=10, equal_flops=True).phases[0].sizes.epochs
    16
    """
    _check_used(settings)
    phases = list(settings.phases)
    if phases and phases[0].epoch == 0 and settings.mix != "fixed":
        raise UserError(
            f"sizes.mix is {settings.mix!r}, but a phase replaces it from epoch 0 on; leave sizes.mix at fixed, or "
            "start the first phase later"
        )
    if not phases or phases[0].epoch > 0:
        phases.insert(0, PhaseSettings(mix=settings.mix))
    made: list[SizePhase] = []
    for phase, following in itertools.zip_longest(phases, phases[1:]):
        length = phase.epochs or max(1, (following.epoch if following else epochs) - phase.epoch)
        sizes = _phase_sizes(phase, settings, base, length)
        if isinstance(sizes, MovingMix) and equal_flops and not following and not phase.epochs:
            sizes = _to_the_end(made, phase.epoch, sizes, epochs * base**2, beside)
        made.append(SizePhase(phase.epoch, sizes, phase.batch_size, phase.copies))
    return SizeSchedule(tuple(made))


def with_moving_phase(settings: SizeSettings) -> SizeSettings:
    """The same settings, with a phase from epoch 0 on in place of a `mix` whose weights move.

    >>> with_moving_phase(SizeSettings(mix="window", sizes=(16, 32))).phases[0].mix
    'window'
    """
    if settings.mix not in MOVING:
        return settings
    return dataclasses.replace(settings, mix="fixed", phases=(PhaseSettings(mix=settings.mix), *settings.phases))


def _to_the_end(
    before: list[SizePhase], start: int, moving: MovingMix, target: int, beside: Callable[[int], float]
) -> MovingMix:
    """The mixture, moving from epoch `start` on for as long as it takes to have trained `target` pixels a sample."""

    def spent(epochs: int) -> float:
        schedule = SizeSchedule((*before, SizePhase(start, dataclasses.replace(moving, epochs=max(1, epochs - start)))))
        mixes = [(len(span), schedule.at(span.start).mix) for span in schedule.spans(epochs)]
        return sum(times * pixels_a_sample(mix, beside) * mix.base**2 for times, mix in mixes)

    most = start + 1
    while spent(most) < target and most < _MOST_EPOCHS:
        most *= 2
    epochs = bisect.bisect_left(range(most), True, lo=start + 1, key=lambda count: spent(count) >= target)
    return dataclasses.replace(moving, epochs=epochs - start)


def _check_used(settings: SizeSettings) -> None:
    """Raise a `UserError` for settings that no mixture of the schedule uses."""
    mixes = {settings.mix, *(phase.mix for phase in settings.phases)}
    for name, takers in TAKERS.items():
        if name != "weights" and getattr(settings, name) != getattr(SizeSettings(), name) and mixes.isdisjoint(takers):
            raise UserError(
                f"sizes.{name} is given, but sizes.mix is {settings.mix!r}, which does not use it; set sizes.mix to "
                f"{' or '.join(takers)}"
            )


def _phase_sizes(
    phase: PhaseSettings, settings: SizeSettings, base: int, epochs: int
) -> SizeMix | SizeRamp | MovingMix:
    given = [bool(phase.mix), bool(phase.size), bool(phase.start or phase.stop)]
    if sum(given) != 1:
        raise UserError(
            f"the size phase at epoch {phase.epoch} has mix={phase.mix!r}, size={phase.size}, start={phase.start}, "
            f"stop={phase.stop}; expected exactly one of mix, size, or start with stop"
        )
    if phase.mix in MOVING:
        return MovingMix(_moving_weights(phase.mix, settings), epochs, base, settings.budget)
    if phase.mix:
        return _mixture(phase.mix, settings, base)
    if phase.size:
        return SizeMix.fixed(phase.size, base, phase.budget)
    return SizeRamp(phase.start, phase.stop, epochs, base, phase.multiple, phase.budget)


def _moving_weights(name: str, settings: SizeSettings) -> GaussianWindow | WeightPoints:
    if name == "window":
        if not settings.sizes:
            raise UserError('sizes.mix is "window" but sizes.sizes is empty; give the sizes, such as [16, 24, 32]')
        return GaussianWindow(settings.sizes, settings.spread, settings.even)
    return WeightPoints(tuple((point.at, _by_size("points", point.weights)) for point in settings.points))


def _mixture(name: str, settings: SizeSettings, base: int) -> SizeMix:
    if name == "fixed":
        return SizeMix.fixed(base)
    if name == "uniform":
        if not settings.sizes:
            raise UserError('sizes.mix is "uniform" but sizes.sizes is empty; give the sizes, such as [16, 24, 32]')
        return SizeMix.uniform(settings.sizes, base, settings.budget)
    if name == "custom":
        if not settings.weights:
            raise UserError(
                'sizes.mix is "custom" but sizes.weights is empty; give shares such as {16 = 0.2, 32 = 0.8}'
            )
        return SizeMix(_by_size("weights", settings.weights), base, settings.budget)
    return SizeMix.named(name, base)


def _by_size(name: str, weights: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    try:
        return tuple({int(size): float(share) for size, share in weights.items()}.items())
    except ValueError:
        raise UserError(f"sizes.{name} is {weights}; expected whole pixels = share") from None
