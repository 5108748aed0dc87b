"""What `bench` returns; how fast anything is, no test says."""

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from anysize import UserError, bench, count_flops, create_model
from anysize.models.measure.timing import peak_bytes
from anysize.models.surgery.fold import fold_batch_norm


@pytest.mark.slow
def test_a_row_for_each_mode_size_and_batch():
    seen = []
    table = bench("resnet8", sizes=[16, 24], batches=[2, 3], repeats=3, on_row=seen.append)
    assert table[["mode", "size", "batch"]].values.tolist() == [
        [mode, size, batch] for mode in ("inference", "training") for size in (16, 24) for batch in (2, 3)
    ]
    assert seen == table.to_dict("records")
    count = functools.cache(functools.partial(count_flops, create_model("resnet8")))
    for row in seen:
        assert row["fastest"] <= row["milliseconds"] <= row["slowest"]
        assert row["images_per_second"] == pytest.approx(1000 * row["batch"] / row["milliseconds"])
        assert row["flops_per_second"] == pytest.approx(1000 * row["flops"] / row["milliseconds"])
        one = count(row["size"], backward=row["mode"] != "inference")
        assert row["flops"] == row["batch"] * one.total


def test_memory_holds_weights_and_activations():
    model = nn.Sequential(nn.Conv2d(3, 64, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    weights, images, features = 4 * 192, 4 * 2 * 3 * 64**2, 4 * 2 * 64 * 64**2
    inference, training = bench(model, [64], [2], repeats=1)["memory"]
    assert weights + images + features <= inference < 1.2 * (weights + images + features)
    # the gradient of the features lives beside them
    assert weights + images + 2 * features <= training < 1.2 * (weights + images + 2 * features)


def test_peak_counts_what_is_there_at_once():
    def run() -> Tensor:
        first = torch.zeros(1000).exp()
        second = first.exp()
        del first
        return second.exp()

    assert peak_bytes(run, torch.device("cpu")) == 8000


def test_the_model_is_not_changed_and_threads_are_put_back():
    model = create_model("cifar_resnet", depth=8, widths=(8, 8, 8), stem=8).eval()
    before = copy.deepcopy(model.state_dict())
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        bench(model, [8], [2], repeats=1, threads=threads)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.conv1.weight.is_contiguous()
    assert all(parameter.grad is None for parameter in model.parameters())


class Shared(list):
    """A list that copies of a model share."""

    def __deepcopy__(self, memo: object) -> "Shared":
        return self


class Watched(nn.Module):
    """Notes for each call whether it trains, in which order of memory and in which precision."""

    def __init__(self, seen: "Shared") -> None:
        super().__init__()
        self.conv, self.norm, self.seen = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), seen

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        last = x.is_contiguous(memory_format=torch.channels_last)
        if not x.is_meta:  # where FLOPs are counted
            self.seen.append((self.training, last, y.dtype))
        return self.norm(y).mean((2, 3))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_options_reach_the_model(train, channels_last, precision):
    seen = Shared()
    table = bench(Watched(seen), [8], [2], train=train, channels_last=channels_last, precision=precision, repeats=1)
    assert table["mode"].tolist() == ["inference", "training"][: 1 + train]
    assert set(seen) == {(mode, channels_last, getattr(torch, precision)) for mode in (False, True)[: 1 + train]}


def test_folded_networks_are_measured_where_it_is_asked_for(monkeypatch):
    measured = []
    monkeypatch.setattr(
        "anysize.models.measure.speed.fold_batch_norm", lambda model: measured.append(model) or fold_batch_norm(model)
    )
    assert bench("resnet8", [16], [2], repeats=1)["folded"].tolist() == [False, False]
    assert not measured
    assert bench("resnet8", [16], [2], repeats=1, fold=True)["folded"].tolist() == [True, False]
    assert len(measured) == 1


def test_other_outputs_than_one_row_of_logits():
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 5, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            y = self.conv(x)
            return (y, y.mean((2, 3))) if self.training else y

    assert len(bench(Dense(), [8], [1], in_channels=1, repeats=1)) == 2


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("resnet5O",), {}, "unknown model 'resnet5O': did you mean 'resnet50'"),
        (("alexnet", [32]), {}, "the smallest it takes is 63"),
        ((nn.Conv2d(3, 4, 1),), {}, "sizes are not given"),
        (("resnet8", [16], [0]), {}, r"batches are \[0\]"),
        (("resnet8", [16], [1.5]), {}, r"batches are \[1.5\]; expected numbers of images from 1"),
        (("resnet8", 16), {}, r"sizes are 16; expected sides of images from 1 pixel"),
        (("resnet8", ["a"]), {}, r"sizes are \['a'\]; expected sides of images from 1 pixel"),
        (("resnet8", [16], [2]), {"precision": "int3"}, "precision is 'int3'; expected one of: float32"),
        (("resnet8", [16], [2]), {"repeats": 0}, "repeats is 0; expected at least 1"),
        (("resnet8", [16], [2]), {"device": "abacus"}, "device is 'abacus', which cannot be used"),
        (("resnet8", [4], [1]), {}, "training at 4 px with batch 1: Expected more than 1 value per channel"),
    ],
)
def test_mistakes_are_answered(arguments, options, message):
    with pytest.raises(UserError, match=message):
        bench(*arguments, **{"repeats": 1, **options})
