"""Signals end a process whatever it waits for, and interrupt a run that waits for images."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from anysize.signals import OnceInterrupted, leave_no_child
from anysize.stopping import StopRequest, StopWaiting

DEAF = """
import signal, time
from anysize.signals import watch_signals

signal.signal(signal.SIGTERM, lambda *_: None)
watch_signals(lambda: 0.2, lambda: False)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_process_that_does_not_hear_is_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"ended by SIGTERM" in error


def test_a_signal_ends_the_waiting_for_images_alone() -> None:
    stop = StopRequest()
    stop.take(signal.SIGTERM)  # not while it waits: the loop looks for it
    assert not stop.heard
    assert stop
    assert stop.heard
    with pytest.raises(StopWaiting), stop.waiting():
        pass
    stop = StopRequest()
    with pytest.raises(StopWaiting), stop.waiting():
        stop.take(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stop.take(signal.SIGINT)


def test_no_signal_is_raised_where_python_would_print_it_and_go_on() -> None:
    class Ends:
        def __del__(self) -> None:
            stop.take(signal.SIGINT, sys._getframe())

    stop = StopRequest()
    with stop.waiting():
        Ends()
    with pytest.raises(StopWaiting), stop.waiting():  # instead of there
        pass


def test_ctrl_c_comes_again_where_nothing_could_be_raised() -> None:
    class Ends:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def end() -> None:
        Ends()
        time.sleep(10)

    before = signal.signal(signal.SIGINT, OnceInterrupted())
    try:
        with pytest.raises(KeyboardInterrupt):
            end()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_child_that_does_not_come_back_is_not_left_behind() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    try:
        child.start()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)  # SIGTERM, which torch and Python send, waits until it goes on
        assert leave_no_child(10)
        assert child.exitcode == -signal.SIGKILL
    finally:
        signal.signal(signal.SIGCHLD, before)
