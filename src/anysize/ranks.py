"""Which of the processes that run one command together says what. Imports the standard library alone."""

import os

_OF_ALL = "anysize_of_all_processes"
_AFTER_SIGTERM = "anysize_after_sigterm"


class EndedElsewhere(Exception):
    """Another process of the run failed or is gone; whoever noticed it first has said so."""


def main_process() -> bool:
    """Whether this process is the one that shows things; known before the processes have met.

    >>> main_process()
    True
    """
    variables = os.environ
    if not launched_together():
        return True  # a number that some other program has left: this process is alone
    return int(variables.get("RANK", variables.get("SLURM_PROCID", 0))) == 0


def launched_together() -> bool:
    """Whether a launcher started several processes for one command.

    >>> launched_together()
    False
    """
    return int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", 1))) > 1


def mark_as_of_all(error: BaseException) -> None:
    """Note that all processes raise this error together."""
    error.__dict__[_OF_ALL] = True


def concerns_all(error: BaseException) -> bool:
    """Whether all processes raise this error together.

    >>> error = ValueError()
    >>> mark_as_of_all(error)
    >>> concerns_all(error), concerns_all(ValueError())
    (True, False)
    """
    return bool(error.__dict__.get(_OF_ALL))


def mark_as_after_sigterm(error: BaseException) -> None:
    """Note that this process was asked to end before it met this error."""
    error.__dict__[_AFTER_SIGTERM] = True


def came_after_sigterm(error: BaseException) -> bool:
    """Whether this process was asked to end before it met this error.

    >>> error = ValueError()
    >>> mark_as_after_sigterm(error)
    >>> came_after_sigterm(error), came_after_sigterm(ValueError())
    (True, False)
    """
    return bool(error.__dict__.get(_AFTER_SIGTERM))


def speaks_of(error: BaseException) -> bool:
    """Whether this process is the one that shows an error: the main one, or the only one that has it."""
    return main_process() or not concerns_all(error)
