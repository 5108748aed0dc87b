"""The training loop, from the first batch to the last validation.

    measure the largest step, so that too little memory shows at once
    for epoch in the epochs left:
        for batch in loader(plan.batches(epoch)[steps done:]):      # batch.size, batch.copies, batch.indices
            apply(regime(progress, batch.size))                     # lr, momentum, ...: a pure function
            train_step(batch)                                       # step.py; waits for nothing
            now and then: look at losses and failures of some steps ago, and write them down
            save, beside the next steps, when it is time or asked   # any process's wish is everybody's
        save; validate a calibrated copy; save the best; report
        end early where validations get no better, if asked to

It never asks which task it trains, nor how many processes do. Randomness inside a step (dropout, mixup) is seeded by
(seed, step, rank), and order and augmentation by the plan, so that a run that is stopped anywhere and resumed ends with
the same bits.
"""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from anysize.data.loader import LoadedBatch
from anysize.data.random import Stream, random_bits
from anysize.models.checks import find_damaged
from anysize.quantize.aware import set_epoch, statistics_stand
from anysize.ranks import concerns_all
from anysize.registry import NotFinite, UserError, counted
from anysize.reports.improvement import without_improvement
from anysize.sizes.batch import Batch
from anysize.stopping import Interrupted, StopRequest, StopWaiting
from anysize.training.best import is_best, keep_best
from anysize.training.checkpoint.store import LAST, PREVIOUS
from anysize.training.guards import Diverged, diverged, way_on
from anysize.training.lr_by_size import lr_factors
from anysize.training.memory import fit_into_memory
from anysize.training.parts import Parts
from anysize.training.recorder import Failure
from anysize.training.replicas import share_statistics
from anysize.training.shapes import too_few_images
from anysize.training.state import TrainState
from anysize.training.step import train_step
from anysize.training.telling import epoch_row, record, record_waiting, show, step_row, tell_steps
from anysize.world import Agreement


def fit(parts: Parts, state: TrainState, stop: StopRequest) -> None:
    """Train from where `state` is to the end of the run.

    Raises:
        Interrupted: a signal asked to stop; the state was saved.
        Diverged: the loss, the gradient, a validation or what is to be saved is not finite.
        LostFolder: the run folder is no longer this run's.
        UserError: out of memory, a full disk.
    """
    fit_into_memory(parts, state)
    progress = state.progress
    for epoch in range(progress.epoch, len(parts.length.steps)):
        if ended_early(parts, state):
            break
        train_epoch(parts, state, stop)
        row, validated = epoch_row(parts, state), False
        if epoch + 1 == len(parts.length.steps) or (epoch + 1) % parts.training.validate_every == 0:
            save(parts, state)  # a signal during validation loses nothing
            row |= validate(parts, state, stop)
            validated = True
        still_own(parts)
        state.history.add(row)
        parts.log.table(state.history.rows)  # before the save that ends the epoch: resuming removes a row too many
        parts.log.epoch(row)
        progress.start_epoch()
        state.recorder.start_epoch()
        save(parts, state, replace=validated)
        parts.report()
    finish_writing(parts)


def ended_early(parts: Parts, state: TrainState) -> str:
    """Why a run ends before its last epoch (training.early_stopping), in words; empty where it does not.

    It follows from the rows of the epochs that are done, which all processes have, and a checkpoint has, too.
    """
    patience, least = parts.training.early_stopping, parts.training.early_stopping_delta
    if not patience or state.progress.epoch >= len(parts.length.steps):
        return ""
    column = f"validation_{parts.task.best}"
    scores = [(int(row["epoch"]), float(row[column])) for row in state.history.rows if row.get(column)]
    stale, risen = without_improvement(scores, least)
    if stale < patience:
        return ""
    more = f" by more than {least:g}" if least else ""
    return (
        f"stopped early, after epoch {state.progress.epoch} of {len(parts.length.steps)}: {parts.task.best} has not "
        f"risen{more} since epoch {risen} (training.early_stopping = {patience})"
    )


def still_own(parts: Parts) -> None:
    """Raise `LostFolder` on all processes where nothing may be written to the run folder any more."""
    with parts.world.together():
        if parts.world.main:
            parts.writer.check()


def train_epoch(parts: Parts, state: TrainState, stop: StopRequest) -> None:
    """The steps of the epoch that `state` is in that are left, saving when it is time or a signal asks for it.

    Raises:
        Interrupted, Diverged, UserError: as `fit`.
    """
    progress, training, agreed = state.progress, parts.training, Agreement(parts.world)
    done, steps = progress.step_in_epoch, parts.length.steps[progress.epoch]
    batches = parts.plan.batches(progress.epoch)[done:steps]
    seeds = step_seeds(training.seed, progress.step, len(batches), parts.world.rank)
    factors = lr_factors(state.optimizer.settings, parts.plan.sizes(progress.epoch), parts.plan.batch_size)
    start_epoch(parts, state)
    every = training.checkpoint_steps if training.checkpoint_minutes else 1
    parts.loader.waiting.take()  # that of a calibration, which loads the same images
    saved, clock = time.monotonic(), time.perf_counter()
    for number, batch in enumerate(or_interrupted(parts, state, batches, stop)):
        if batch is None:
            continue
        regime_epoch = parts.length.regime_epoch(progress.epoch, progress.step_in_epoch)
        progress.lr = float(state.optimizer.apply(regime_epoch, factors[batch.size])["lr"])
        progress.step_in_epoch = done + number
        train_step(parts, state, batch, next(seeds))
        own = len(batch.images)
        state.rows.add(batch.size, parts.images_of_all(progress.epoch, progress.step_in_epoch, own))
        progress.step += 1
        progress.step_in_epoch = done + number + 1
        now = time.perf_counter()
        record(progress, now - clock)
        record_waiting(parts, state, now - clock)
        clock = now
        row = step_row(parts, state)
        if row or progress.step % training.log_every == 0 or number < 2:  # a run shows its first loss soon
            look(parts, state)
            state.recorder.send(row)
        show(parts, state, batch.size)
        due = time.monotonic() - saved >= 60 * training.checkpoint_minutes
        stopping, saving, unwritten = agreed(bool(stop), due, parts.writer.failed)
        saving |= bool(every) and progress.step % every == 0  # which all know, and need not agree on
        if unwritten:
            finish_writing(parts)
        if stopping or saving:
            save(parts, state)
            stopping |= any(agreed.close()[:1])  # without the wish to save that was raised before this save
            if stopping:
                interrupt(parts, state, stop)
            saved, clock = time.monotonic(), time.perf_counter()  # saving is not training time
    agreed.close()
    settle(parts, state)
    record(progress, time.perf_counter() - clock)


def look(parts: Parts, state: TrainState) -> None:
    """Take note of what the last log point has sent; raise `Diverged` for a step that was not finite."""
    failure = state.recorder.read()
    tell_steps(parts, state)
    stop_if_failed(parts, state, failure)


def or_interrupted(
    parts: Parts, state: TrainState, batches: Sequence[Batch], stop: StopRequest
) -> Iterator[LoadedBatch | None]:
    """`whole_batches`; where a signal comes while one is waited for, the run is saved and interrupted."""
    try:
        yield from whole_batches(parts, state, batches, stop)
    except StopWaiting:
        save(parts, state)
        interrupt(parts, state, stop)


def interrupt(parts: Parts, state: TrainState, stop: StopRequest) -> NoReturn:
    """End the run, which was saved, once that is written."""
    finish_writing(parts)
    saved = f"saved at epoch {state.progress.epoch + 1}, step {state.progress.step}"
    raise stop.interruption(saved, parts.world)


def start_epoch(parts: Parts, state: TrainState) -> None:
    """Let the model train; where it is trained for int8, what moves in it follows from the epoch alone."""
    state.model.train()
    if state.averaged and parts.second.teacher.startswith("averaged"):
        state.averaged.model.train()  # a validation has left it in evaluation
    if parts.quantize.aware:
        if statistics_stand(parts.quantize, state.progress.epoch):
            share_statistics(state.model, parts.world, parts.training.statistics)
        set_epoch(state.model, parts.quantize, state.progress.epoch)


def step_seeds(seed: int, step: int, count: int, rank: int) -> Iterator[int]:
    """The seeds of `count` steps from `step` on, for the generators of one process."""
    steps = np.arange(step, step + count)
    return (int(bits) for bits in random_bits(seed, 0, steps, rank, Stream.STEP))


def whole_batches(
    parts: Parts, state: TrainState, batches: Sequence[Batch], stop: StopRequest
) -> Iterator[LoadedBatch | None]:
    """The batches in order, each loaded while the one before it is trained on; None for one that is passed over.

    A batch is passed over on all processes where damaged files leave too little of it on one. What one process cannot
    load at all ends all of them, before that batch; so does a signal while it is waited for.
    """
    ahead: collections.deque[tuple[LoadedBatch | None, Callable[[], Sequence[bool]]]] = collections.deque()
    loaded, following = parts.load(batches), None
    errors: list[Exception] = []
    done = state.progress.step_in_epoch

    def first() -> LoadedBatch | None:
        batch, answer = ahead.popleft()
        lacking, failed = answer()
        if failed:
            with parts.world.together():
                if errors:
                    raise errors.pop()  # no name is left that would keep it, and the loader in its traceback, alive
        return None if lacking else batch

    for number, planned in enumerate(batches):
        batch, lacking = None, True
        if not errors:
            try:
                with stop.waiting():
                    following = following or next(loaded, None)
                if following and following.step == number:  # a batch of damaged files alone is not loaded
                    batch, following = following, None
                    complete = len(batch.indices) == len(planned.indices)
                    lacking = not complete and lacks_images(parts, state, batch, done + number)
            except Exception as error:
                errors.append(error)
        ahead.append((batch, parts.world.post(lacking, bool(errors))))
        if len(ahead) > 1:
            yield first()
    while ahead:
        yield first()


def lacks_images(parts: Parts, state: TrainState, batch: LoadedBatch, step: int) -> bool:
    """Whether damaged files leave the batch of a step of the epoch too few images to train on, which is said."""
    channels, images = parts.loader.source.channels, len(batch.images)
    fewest = parts.fewest_images(batch.epoch, step, batch)
    chunks = min(state.micro_batches.chunks(fewest), fewest)
    if parts.world.size > 1 and images < chunks:
        needs = f"each process needs one in each of {chunks} parts"
    elif too_few_images(state.model, images, batch.extent, chunks, channels):
        needs = f"batch norm needs two in each of {chunks} parts"
    else:
        return False
    parts.log.warning(
        f"passed over a batch at {batch.size} px that damaged files left {counted(images, 'image')} of: {needs}"
    )
    return True


def settle(parts: Parts, state: TrainState) -> None:
    """Wait for the device and take note of the epoch so far.

    Raises:
        Diverged: a step was not finite.
    """
    failure = state.recorder.drain()
    tell_steps(parts, state, now=True)
    stop_if_failed(parts, state, failure)
    progress, images = state.progress, state.recorder.images
    progress.images += images - progress.epoch_images
    progress.epoch_images = images
    progress.flops = parts.length.flops_at(progress.epoch, progress.step_in_epoch)


def stop_if_failed(parts: Parts, state: TrainState, failure: Failure | None) -> None:
    """Raise `Diverged` for a step that was not finite. The weights are those of before it, and nothing is saved: the
    running statistics of norms may have seen the batch."""
    if failure:
        made = failure.record
        samples = [parts.describe(int(i)) for i in made.indices]
        where = find_damaged(state.model)
        # Where the loss of one process is not finite, the gradient, their sum, is that of all.
        names = parts.world.gather(failure.name)
        advice = way_on_of(parts, state, made.step)
        with parts.world.together():
            if parts.world.rank == (names.index("loss") if "loss" in names else 0):
                raise diverged(failure.name, failure.value, made.epoch, made.step, made.size, samples, where, advice)


def way_on_of(parts: Parts, state: TrainState, failed: int) -> str:
    """How the run goes on that diverged in the step `failed`, by the saves that there are; on all processes."""
    advice = ""
    if parts.world.main:
        with contextlib.suppress(UserError):  # the divergence is what is told
            parts.writer.wait()
        advice = way_on(parts.checkpoints, state.recorder.last_sane(failed))
    shared: str = parts.world.share(advice)
    return shared


def save(parts: Parts, state: TrainState, *, replace: bool = False) -> None:
    """Write `last`; what was `last` becomes `previous`, or is replaced where it holds the same weights (`replace`).

    With training.checkpoint_background the files are written while training goes on.
    """
    settle(parts, state)
    state.replicas.gather()
    with parts.world.together():
        if parts.world.main:
            parts.writer.wait()
            keep = None if replace else parts.checkpoints / PREVIOUS
            state.save(parts.checkpoints / LAST, parts.description, keep=keep, write=parts.writer.write)


def finish_writing(parts: Parts) -> None:
    """Wait for the checkpoint that is being written; what went wrong with it is raised on all processes."""
    with parts.world.together():
        parts.writer.wait()


def validate(parts: Parts, state: TrainState, stop: StopRequest) -> dict[str, Any]:
    """Validate, save the best; returns what the validation adds to the epoch's row of `metrics.csv`."""
    try:
        validation = parts.validate(state.evaluated, stop)
    except Interrupted:
        parts.writer.wait()  # an interruption says that everything was saved
        raise
    except NotFinite as error:
        if parts.world.size > 1 and not concerns_all(error):
            raise
        raise Diverged(f"{error}; of this run: {way_on_of(parts, state, state.progress.step + 1)}") from error
    finish_writing(parts)
    beats = is_best(state, validation.metrics[parts.task.best])
    with parts.world.together():
        if parts.world.main:
            keep_best(parts, state, validation, beats=beats)
    metrics = {f"validation_{name}": value for name, value in validation.metrics.items()}
    return {**metrics, "validation_size": validation.size, "validation_calibrated": validation.calibrated}
