"""Files that other programs wrote: every format they use, nothing run, one sentence where it is no checkpoint."""

import argparse
import collections
import os
import pathlib
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from anysize.models.weights import read_foreign
from anysize.registry import UserError

WEIGHTS = {"conv1.weight": torch.arange(12.0).view(2, 6), "bn1.num_batches_tracked": torch.tensor(5)}
WRAPPED = {f"module.{name}": value for name, value in WEIGHTS.items()}
AVERAGED = {"n_averaged": torch.tensor(9), **{f"module.{name}": value + 1 for name, value in WEIGHTS.items()}}


def save(path: Path, held: Any, old: bool = False) -> Path:
    torch.save(held, path, _use_new_zipfile_serialization=not old)
    return path


def assert_weights(tensors: dict[str, torch.Tensor], more: int = 0) -> None:
    assert sorted(tensors) == sorted(WEIGHTS)
    assert all(torch.equal(tensors[name], value + more) for name, value in WEIGHTS.items())


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize(
    "held",
    [
        WEIGHTS,
        WRAPPED,
        {f"module._orig_mod.{name}": value for name, value in WEIGHTS.items()},
        collections.OrderedDict(WRAPPED),
        {"state_dict": WRAPPED, "epoch": 3},
        {"model": WEIGHTS, "epoch": 3},
        {"model": "resnet", "state_dict": WEIGHTS},
        {"model_state_dict": WEIGHTS, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}},
        {"network of mine": WEIGHTS, "epoch": 3},
        {"state_dict": {name: nn.Parameter(value, value.is_floating_point()) for name, value in WEIGHTS.items()}},
    ],
    ids=lambda held: ",".join(map(str, held))[:40],
)
def test_weights_are_found_wherever_programs_put_them(tmp_path: Path, held: dict[str, Any], old: bool) -> None:
    foreign = read_foreign(save(tmp_path / "a.pth.tar", held, old))
    assert_weights(foreign.tensors)
    assert not any(value.requires_grad for value in foreign.tensors.values())
    assert foreign.format == ("PyTorch before 1.6" if old else "PyTorch")


def test_safetensors_with_what_its_header_says(tmp_path: Path) -> None:
    safetensors.torch.save_file(WRAPPED, tmp_path / "model.safetensors", {"arch": "tiny", "epoch": "12"})
    foreign = read_foreign(tmp_path / "model.safetensors")
    assert_weights(foreign.tensors)
    assert (foreign.arch, foreign.epoch, foreign.format) == ("tiny", 12, "safetensors")


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
def test_what_stands_beside_is_told(tmp_path: Path, old: bool) -> None:
    """As torchvision's references leave it: arguments as a Namespace, which torch itself refuses, and numpy values."""
    arguments = argparse.Namespace(model="resnet18", output_dir=pathlib.Path("runs"), lr=0.5)
    held = {
        "model": WEIGHTS,
        "model_ema": AVERAGED,
        "args": arguments,
        "epoch": 4,
        "best_acc1": np.float64(71.25),
        "best_err5": torch.tensor(9.5),
        "scheduler": {"milestones": collections.Counter([30, 60])},
        "count": np.int64(3),
    }
    foreign = read_foreign(save(tmp_path / "checkpoint.pth", held, old))
    assert (foreign.arch, foreign.epoch) == ("resnet18", 4)
    assert foreign.metrics == {"best_acc1": 71.25, "best_err5": 9.5}
    assert_weights(foreign.tensors)
    told = "\n".join(foreign.lines())
    assert "model 'resnet18', epoch 4, best_acc1 71.25" in told
    assert "--averaged takes them" in told


def test_the_options_of_mix_and_match_are_told(tmp_path: Path) -> None:
    held = {"epoch": 2, "model": "resnet", "config": "{'depth': 44}", "state_dict": WEIGHTS, "best_prec1": 93.5}
    foreign = read_foreign(save(tmp_path / "checkpoint.pth.tar", held))
    assert (foreign.arch, foreign.config, foreign.metrics) == ("resnet", "{'depth': 44}", {"best_prec1": 93.5})


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema"])
def test_averaged_weights_where_they_are_wanted(tmp_path: Path, key: str) -> None:
    path = save(tmp_path / "checkpoint.pth", {"state_dict": WEIGHTS, key: AVERAGED})
    assert_weights(read_foreign(path, averaged=True).tensors, more=1)
    assert_weights(read_foreign(save(path, {key: AVERAGED})).tensors, more=1)  # where there are no others
    with pytest.raises(UserError, match="holds no averaged weights"):
        read_foreign(save(path, {"state_dict": WEIGHTS}), averaged=True)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel does not list what is mapped")
def test_tensors_of_a_zip_file_stay_on_disk(tmp_path: Path) -> None:
    """What is never looked at, such as the state of an optimizer, takes no memory."""
    path = save(tmp_path / "big.pth", {"state_dict": {"w": torch.zeros(1 << 20)}})
    foreign = read_foreign(path)
    assert foreign.tensors["w"].shape == (1 << 20,)
    assert str(path) in Path("/proc/self/maps").read_text()


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("kind", ["zip", "before 1.6", "pickle", "pickle 2"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "evil.pth", tmp_path / "made"
    held = {"state_dict": WEIGHTS, "extra": Evil(target)}
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(held["extra"], protocol=2 if kind == "pickle 2" else 4))
    else:
        save(path, held, kind == "before 1.6")
    with pytest.raises(UserError, match=r"evil\.pth is refused: it asks for \w+\.mkdir, .* nothing of it was run"):
        read_foreign(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Evil(target)))  # the same pickle does it where it is run
    assert target.exists()


def test_a_whole_pickled_model_is_refused_with_its_class(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pth", torchvision.models.resnet18())
    with pytest.raises(UserError, match=r"asks for torchvision\.models\.resnet\.ResNet.*save model\.state_dict"):
        read_foreign(path)


def test_what_was_allowed_for_a_file_is_not_allowed_after_it(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoint.pth", {"model": WEIGHTS, "args": argparse.Namespace(model="a")})
    read_foreign(path)
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>", "is a web page"),
        (b"\n\n <html lang=en>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "pointer of git-lfs"),
        (b"Not a checkpoint\nat all\n", r"is text \('Not a checkpoint'\), not a checkpoint"),
        (bytes(range(256)) * 20, "no checkpoint that PyTorch reads"),
        (pickle.dumps({"weights": [1, 2]}), "no checkpoint that PyTorch reads"),
        (pickle.dumps({"weights": [1, 2]}, protocol=2), "no checkpoint that PyTorch reads"),
        ((10_000).to_bytes(8, "little") + b'{"w":{"dtype":"F32"', "no whole safetensors file"),
    ],
)
def test_what_is_no_checkpoint_is_told_in_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        read_foreign(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["zip", "before 1.6", "safetensors"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_truncated_file_is_told(tmp_path: Path, form: str, share: float) -> None:
    path, weights = tmp_path / "file.pth", {f"{i}": torch.randn(1000) for i in range(10)}
    if form == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        save(path, {"state_dict": weights}, form == "before 1.6")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"(cut short or damaged|no whole safetensors file) ?\([\d,]+ bytes\)"):
        read_foreign(path)


def test_other_archives_and_programs_are_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.pth", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(UserError, match="is a zip archive, but no PyTorch checkpoint"):
        read_foreign(tmp_path / "images.pth")
    torch.save({"w": torch.zeros(1)}, tmp_path / "four.pth", pickle_protocol=4)
    with pytest.raises(UserError, match="PyTorch file that cannot be read without running code"):
        read_foreign(tmp_path / "four.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(UserError, match="is a TorchScript program"):
        read_foreign(tmp_path / "script.pt")


def test_a_compressed_archive_is_refused_unread(tmp_path: Path) -> None:
    """Else a file of a few kilobytes could ask for any amount of memory."""
    whole, path = save(tmp_path / "whole.pth", {"model": WEIGHTS, "note": "x" * (1 << 24)}), tmp_path / "small.pth"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert path.stat().st_size < 1 << 15
    assert_weights(read_foreign(whole).tensors)
    with pytest.raises(UserError, match="is a compressed zip archive, which no PyTorch checkpoint is"):
        read_foreign(path)


class Reduced:
    """Is pickled as the call of something harmless."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.reduced


def test_numpy_scalars_take_no_memory_that_the_file_names(tmp_path: Path) -> None:
    """numpy itself would fill as many bytes as the type has."""
    scalar = np.float64(0).__reduce__()[0]
    held = {
        "model": WEIGHTS,
        "best": Reduced(scalar, Reduced(np.dtype, "V100000000")),
        "loss": Reduced(scalar, np.dtype(">f8"), struct.pack(">d", 7.5)),
        "acc": np.float16(0.5),
    }
    path = save(tmp_path / "numpy.pth", held)
    tracemalloc.start()
    try:
        assert read_foreign(path).metrics == {"loss": 7.5, "acc": 0.5}
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_numbers_of_any_length_are_passed_over(tmp_path: Path) -> None:
    for epoch in ("9" * 5000, "²"):
        foreign = read_foreign(save(tmp_path / "a.pth", {"model": WEIGHTS, "epoch": epoch, "best": 10**400}))
        assert (foreign.epoch, foreign.metrics) == (None, {})


@pytest.mark.filterwarnings("ignore")  # of torch, on layouts that may change
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.zeros(2, 3).to_sparse(), r"sparse \(torch.sparse_coo\); expected plain tensors"),
        (lambda: torch.zeros(2, 3).to_sparse_csr(), r"sparse \(torch.sparse_csr\); expected plain tensors"),
        (lambda: torch.zeros(2, 3, device="meta"), r"saved without its values \(device meta\)"),
        (lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(4)]), "nested; expected plain tensors"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint32), r"quantized \(torch.qint32\), and "),
    ],
)
def test_tensors_without_plain_values_are_refused(tmp_path: Path, make: Callable[[], torch.Tensor], said: str) -> None:
    with pytest.raises(UserError, match=rf"the tensor w (is|was) {said}"):
        read_foreign(save(tmp_path / "a.pth", {"state_dict": {"w": make()}}))


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.pth", {"model": WEIGHTS})

    def forbid(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(
        "anysize.models.weights.foreign_files.open_regular", forbid
    )  # the owner of tests may be root, whom no mode keeps out
    with pytest.raises(UserError, match=r"a\.pth cannot be read: Permission denied; expected a file that you may read"):
        read_foreign(path)


def test_no_file_and_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*none\.pth"):
        read_foreign(tmp_path / "none.pth")
    with pytest.raises(UserError, match="is a folder; expected a checkpoint file"):
        read_foreign(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"one of anysize's own: give it as model\.weights"):
        read_foreign(tmp_path)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"epoch": 3, "best": 0.5}, "holds no weights: it has epoch, best"),
        ({"state_dict": {}}, "holds no weights"),
        ({"optimizer": {"state": {0: torch.ones(1)}}}, "holds no weights"),
        ([torch.zeros(2)], "holds a list"),
        (torch.zeros(2, 3), r"holds one tensor \(2, 3\)"),
    ],
)
def test_a_checkpoint_without_weights_is_told(tmp_path: Path, held: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_foreign(save(tmp_path / "a.pth", held))
