"""A signal ends a program within seconds, whatever its main thread waits for. Imports the standard library alone.

Python hears of a signal between two of its own instructions: never in a call that does not come back, such as an
exchange with a process that is gone. So a thread hears of each as well, and ends the process where that goes on as if
none had come.
"""

import _thread
import contextlib
import math
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

PATIENCE = 10.0
"""Seconds that a process has to hear of a signal."""

_AGAIN = 5.0  # after a second Ctrl-C
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that ask a program to end; Windows has no SIGHUP."""


def watch_signals(patience: Callable[[], float], heard: Callable[[], bool]) -> Callable[[], None]:
    """From now on end this process `patience()` seconds after SIGTERM, SIGHUP or Ctrl-C, unless it was `heard` by then.

    A second Ctrl-C ends it in a few seconds in any case. Signals that have their default effect, or are ignored, are
    not looked at. Returns a function that ends the watch. Outside the main thread there is none.

    >>> watch_signals(lambda: 10.0, lambda: False)()
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    own, other = socket.socketpair()
    other.setblocking(False)
    before = signal.set_wakeup_fd(other.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(own, other, patience, heard), name="anysize_signals", daemon=True)
    watch.start()

    def end() -> None:
        signal.set_wakeup_fd(before)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)  # a forked process may hold the other end, too
        other.close()
        watch.join(1)  # no thread is left that a program could end under

    return end


def is_swallowed(frame: FrameType | None) -> bool:
    """Whether Python would print an exception that is raised in `frame`, and go on: around a fork, or as objects end.

    >>> is_swallowed(sys._getframe())
    False
    """
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "_remove", "_launch"):  # the second of weak sets, the third forks
            return True
        frame = frame.f_back
    return False


def send_again(number: int, seconds: float = 0.02) -> None:
    """Have a signal come once more, soon: for a moment in which nothing can be raised."""

    def send() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), number)

    _thread.start_new_thread(send, ())  # a Thread takes locks, which the interrupted code may hold


class OnceInterrupted:
    """Handles Ctrl-C in a program that ends with it: the first one interrupts, and those after it leave the ending be.

    >>> handler = OnceInterrupted()
    >>> handler.came = True  # a run heard of one, and is ending
    >>> handler(signal.SIGINT)
    """

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        if self.came:
            return
        if is_swallowed(frame):
            send_again(number)
            return
        self.came = True
        raise KeyboardInterrupt


@contextlib.contextmanager
def watched_signals(patience: Callable[[], float], heard: Callable[[], bool]) -> Iterator[None]:
    """`watch_signals` for the length of a block."""
    end = watch_signals(patience, heard)
    try:
        yield
    finally:
        end()


def _watch(own: socket.socket, other: socket.socket, patience: Callable[[], float], heard: Callable[[], bool]) -> None:
    """The thread: it reads the number of each signal that came, and nothing once `other`, held here, was shut."""
    came: list[int] = []
    deadline = math.inf
    with own:
        while True:
            if select.select([own], [], [], None if deadline == math.inf else 0.1)[0]:
                numbers = own.recv(64)
                if not numbers:
                    return
                for number in (number for number in numbers if number in ENDING):
                    came.append(number)
                    if len(came) == 1:
                        deadline = time.monotonic() + patience()
                    elif came.count(signal.SIGINT) > 1:
                        deadline = min(deadline, time.monotonic() + _AGAIN)
            if came.count(signal.SIGINT) < 2 and heard():
                deadline = math.inf
            if time.monotonic() > deadline:
                _end(came[-1])


def leave_no_child(seconds: float = 2.0) -> bool:
    """End the processes that multiprocessing started, at once; whether all are gone, in so many seconds.

    One that waits for ever, such as for a network's file system, would keep this one from its end, or outlive it.

    >>> leave_no_child()
    True
    """
    children = multiprocessing.active_children()
    if children and hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes a worker's end for a failure
    for child in children:
        child.kill()
    deadline = time.monotonic() + seconds
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
    return not any(child.is_alive() for child in children)


def _end(number: int) -> None:
    name = signal.Signals(number).name
    leave_no_child(0)
    with contextlib.suppress(OSError):
        told = f"anysize: ended by {name}: the process did not come back from what it waited for; what was saved stands"
        os.write(2, f"{told}\n".encode())
    os._exit(128 + number)


def _forget() -> None:
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)  # a signal to a child is none to its parent


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)
