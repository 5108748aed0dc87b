"""Signals end a process whatever it waits for, and interrupt a run that waits for images."""

import signal
import subprocess
import sys

import pytest

from anysize.world import StopRequest, StopWaiting

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
