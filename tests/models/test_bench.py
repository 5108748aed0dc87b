"""What `bench` returns; how fast anything is, no test says."""

import copy

import pytest
import torch
from torch import Tensor, nn

from anysize import UserError, bench, count_flops, create_model
from anysize.models.bench import peak_bytes
from anysize.models.structure import evaluation_flops


def test_a_row_for_each_mode_size_and_batch():
    seen = []
    table = bench("resnet8", sizes=[16, 24], batches=[2, 3], repeats=3, on_row=seen.append)
    assert table[["mode", "size", "batch"]].values.tolist() == [
        [mode, size, batch] for mode in ("inference", "training") for size in (16, 24) for batch in (2, 3)
    ]
    assert seen == table.to_dict("records")
    for row in seen:
        assert row["fastest"] <= row["milliseconds"] <= row["slowest"]
        assert row["images_per_second"] == pytest.approx(1000 * row["batch"] / row["milliseconds"])
        assert row["flops_per_second"] == pytest.approx(1000 * row["flops"] / row["milliseconds"])
        model = create_model("resnet8")
        size = row["size"]
        one = evaluation_flops(model, size) if row["mode"] == "inference" else count_flops(model, size).total
        assert row["flops"] == row["batch"] * one


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
    model = create_model("resnet8").eval()
    before = copy.deepcopy(model.state_dict())
    threads = torch.get_num_threads()
    bench(model, [16], [2], repeats=1, threads=threads + 1)
    assert torch.get_num_threads() == threads
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.conv1.weight.is_contiguous()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("options", [{"fold": True}, {"channels_last": False}, {"precision": "bfloat16"}])
def test_options(options):
    table = bench("resnet8", [16], [2], train=False, repeats=1, **options)
    assert table["mode"].tolist() == ["inference"]
    assert table["folded"].tolist() == [options.get("fold", False)]


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
        (("inception_v3", [32]), {}, "the smallest it takes is 75"),
        ((nn.Conv2d(3, 4, 1),), {}, "sizes are not given"),
        (("resnet8", [16], [0]), {}, r"batches are \[0\]"),
        (("resnet8", [16], [2]), {"precision": "int3"}, "precision is 'int3'; expected one of: float32"),
        (("resnet8", [16], [2]), {"repeats": 0}, "repeats is 0; expected at least 1"),
        (("resnet8", [16], [2]), {"device": "abacus"}, "device 'abacus' cannot be used"),
        (("resnet18", [32], [1]), {}, "training at 32 px with batch 1: Expected more than 1 value per channel"),
    ],
)
def test_mistakes_are_answered(arguments, options, message):
    with pytest.raises(UserError, match=message):
        bench(*arguments, **{"repeats": 1, **options})
