"""The recorder of an epoch's steps: what it counts where a run goes on in the middle of an epoch."""

import numpy as np
import torch

from anysize.training.recorder import Recorder, StepRecord
from anysize.world import World


def step(recorder: Recorder, images: int) -> None:
    recorder.add(StepRecord(0, 1, 28, np.arange(images)), images, ("loss",), torch.tensor([0.5]))


def test_what_all_processes_trained_on_before_a_resume_is_counted_once() -> None:
    before = Recorder(torch.device("cpu"))
    for _ in range(3):
        step(before, 40)
    before.drain()  # the sums of all processes, as a checkpoint has them
    main = Recorder(torch.device("cpu"), world=World(0, 4))
    main.load_state_dict(before.state_dict())
    assert main.count_of_all == 120
    step(main, 10)
    assert main.count_of_all == 160
    main.start_epoch()
    step(main, 10)
    assert main.count_of_all == 40
