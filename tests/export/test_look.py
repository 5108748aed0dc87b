"""Files are looked at before they are run: truncated, foreign and hostile ones are told apart."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from anysize.export.look import look_at, read_description
from anysize.registry import UserError


class Harm:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


def foreign(path: Path, *, op: str = "Relu", domain: str = "", shape: tuple[object, ...] = ("n", 3, "h", "w")) -> Path:
    node = helper.make_node(op, ["x"], ["y"], domain=domain)
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(helper.make_graph([node], "g", sides[:1], sides[1:]), opset_imports=opsets)
    onnx.save(model, str(path))
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        look_at(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_onnx_file_is_parsed_first(onnx_file: Path, tmp_path: Path) -> None:
    path, whole = tmp_path / "x.onnx", onnx_file.read_bytes()
    assert "there is no file" in refused(path)
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:-40]):
        path.write_bytes(content)
        assert "is no ONNX file, or a truncated one" in refused(path) or "is damaged" in refused(path)
    assert "calls the operator 'Evil' of 'my.library'" in refused(foreign(path, op="Evil", domain="my.library"))
    assert "is no network of images" in refused(foreign(path, shape=("n", 3)))
    model = onnx.load(str(foreign(path)))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.float32), "w"))
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../../secret.bin")
    path.write_bytes(model.SerializeToString())
    assert "keeps 'w' in another file, which is not opened" in refused(path)
    with pytest.raises(UserError, match="was not written by anysize"):
        read_description(foreign(path))
    broken = onnx.load(str(onnx_file))
    next(entry for entry in broken.metadata_props if entry.key == "anysize").value = '{"format": 1}'
    path.write_bytes(broken.SerializeToString())
    assert "its description is damaged" in refused(path)
    next(entry for entry in broken.metadata_props if entry.key == "anysize").value = '{"format": 9}'
    path.write_bytes(broken.SerializeToString())
    assert "has a description of format 9" in refused(path)


def test_nothing_of_a_pt2_file_is_unpickled_or_run(pt2_file: Path, tmp_path: Path) -> None:
    path, mark = tmp_path / "x.pt2", tmp_path / "harm"

    def changed(member: str, change: Callable[[bytes], bytes]) -> Path:
        with zipfile.ZipFile(pt2_file) as old, zipfile.ZipFile(path, "w") as new:
            names = old.namelist()
            for name in names:
                content = old.read(name)
                new.writestr(name, change(content) if name.endswith(member) else content)
            if not any(name.endswith(member) for name in names):
                new.writestr(f"{names[0].partition('/')[0]}/{member}", change(b""))
        return path

    def in_json(text: str, by: str) -> Callable[[bytes], bytes]:
        def change(content: bytes) -> bytes:
            assert text in content.decode()
            return content.decode().replace(text, by).encode()

        return change

    def pickled(_: bytes) -> bytes:
        content = io.BytesIO()
        torch.save(Harm(mark), content, pickle_module=pickle)
        return content.getvalue()

    path.write_bytes(pt2_file.read_bytes()[:-200])
    assert "is no pt2 file, or a truncated one" in refused(path)
    assert "may be code" in refused(changed("data/aotinductor/model/code.so", lambda _: b"ELF"))
    assert "as a pickle" in refused(
        changed("model_weights_config.json", in_json('"use_pickle": false', '"use_pickle": true'))
    )
    assert "pickle in its sample inputs" in refused(changed("sample_inputs/model.pt", pickled))
    calls = in_json("torch.ops.aten.relu.default", "torch.hub.load")
    assert "calls 'torch.hub.load'" in refused(changed("models/model.json", calls))
    model = next(name for name in zipfile.ZipFile(pt2_file).namelist() if name.endswith("models/model.json"))
    text = zipfile.ZipFile(pt2_file).read(model).decode()
    expression = text.split('"expr_str": ')[1].split('"')[1]
    size = in_json(json.dumps(expression), json.dumps(f"__import__('pathlib').Path('{mark}').touch()"))
    assert "computes a size as" in refused(changed("models/model.json", size))
    assert not mark.exists()
