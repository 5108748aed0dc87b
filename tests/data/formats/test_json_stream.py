"""Reading a JSON file an element at a time gives what `json` gives, in little memory, and says what is wrong."""

import contextlib
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anysize.data.formats.coco import json_stream
from anysize.data.formats.coco.json_stream import read_members
from anysize.registry import UserError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def read(path: Path, window: int = 2**22) -> dict[str, Any]:
    """Lists of elements, and None for any other value."""
    with contextlib.closing(read_members(path, window)) as members:
        return {
            name: None if elements is None else [element.value for element in elements] for name, elements in members
        }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    content=st.dictionaries(st.text(max_size=6), VALUES, max_size=5),
    window=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
@pytest.mark.slow
def test_elements_are_those_of_json_and_lie_where_it_says(tmp_path: Path, content, window, indent, ascii_only, mark):
    path = tmp_path / "file.json"
    written = mark + json.dumps(content, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    path.write_bytes(written)
    found = dict.fromkeys(content)
    for name, elements in read_members(path, window):
        if elements is None:
            assert not isinstance(content[name], list)
        else:
            found[name] = elements = list(elements)
            assert [element.value for element in elements] == content[name]
            for element in elements:
                place = written[element.offset : element.offset + element.length]
                assert json.loads(place) == element.value
                assert place == place.strip()
    assert [*found] == [*content]


def test_what_is_not_taken_is_passed_over(tmp_path: Path):
    path = tmp_path / "file.json"
    path.write_text('{"a": [1, 2, [3]], "b": [], "c": [{"x": []}, 5]}')
    taken = {name: next(elements).value for name, elements in read_members(path, 3) if name != "b"}
    assert taken == {"a": 1, "c": {"x": []}}


@pytest.mark.slow
def test_memory_is_that_of_a_window(tmp_path: Path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"a": [{"number": i, "text": "x" * 100} for i in range(40_000)]}))
    tracemalloc.start()
    try:
        count = sum(1 for _, elements in read_members(path, 2**14) for _ in elements or ())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 40_000
    assert peak < 2**18 < path.stat().st_size / 10


@pytest.mark.parametrize("window", [5, 2**22])
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path, window: int):
    path = tmp_path / "file.json"
    whole = '{"info": {"y": [1]}, "a": [{"x": [1.5, -20], "s": "te\\u00fc\\"t"}, {"x": true}], "b": null}'
    path.write_text(whole)
    assert read(path, window) == {"info": None, "a": json.loads(whole)["a"], "b": None}
    for length in range(1, len(whole)):
        path.write_text(whole[:length])
        with pytest.raises(
            UserError, match=r"file\.json is cut off.*: it ends after \d+ bytes; copy or unpack it again"
        ):
            read(path, window)


@pytest.mark.parametrize("window", [5, 2**22])
@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "is empty"),
        ("   \n", "is empty"),
        ("[]", "holds a list, as files of results do"),
        ("<html><body>Not found</body></html>", r"not JSON \(Expecting '\{' at byte 0\)"),
        ('"text and more of it"', r"not JSON \(Expecting '\{' at byte 0\)"),
        ('{"a": [{"x" 1}, {"x": 2}], "b": 1}', r"not JSON \(Expecting ':' delimiter at byte 12 in 'a'\)"),
        ('{"a": [{"x": 1} {"x": 2}], "b": 1}', r"not JSON \(Expecting ',' at byte 16 in 'a'\)"),
        ('{"a": [1,, 2], "bbbbbbbbbbbbb": 1}', r"not JSON \(Expecting value at byte 9 in 'a'\)"),
        ('{"a": [1, 2,], "bbbbbbbbbbbbb": 1}', r"not JSON \(Expecting value at byte 12 in 'a'\)"),
        ('{"a": [1, 2], 5: 6, "bbbbbbbbb": 1}', r"not JSON \(a member named 5"),
        ('{"a": [1, 2]} and more than this', r"not JSON \(Expecting nothing more at byte 14\)"),
        ('{"a": [' + "[" * 100_000 + "]" * 100_000 + "]}", r"not JSON \(values are nested too deep at byte 7 in 'a'"),
        ('{"' + "k" * 9999 + '" 1}', "not JSON .Expecting ':'"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(tmp_path: Path, window: int, written: str, message: str):
    path = tmp_path / "file.json"
    path.write_text(written)
    with pytest.raises(UserError, match=message) as caught:
        read(path, window)
    assert str(path) in str(caught.value)


def test_other_encodings_and_missing_files_are_refused(tmp_path: Path):
    path = tmp_path / "file.json"
    path.write_bytes('{"a": ["grün", 1]}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"not JSON \(its text is not UTF-8 at byte 7 in 'a'\)"):
        read(path)
    path.write_bytes('{"a": ["grün", 1]}'.encode("utf-16"))
    with pytest.raises(UserError, match="not JSON"):
        read(path)
    with pytest.raises(UserError, match=rf"{tmp_path} cannot be read \(it is a folder"):
        read(tmp_path)


def test_a_value_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file.json"
    path.write_text('{"a": [1, "' + "x" * 100_000)
    monkeypatch.setattr(json_stream, "_LARGEST", 2**16)
    with pytest.raises(UserError, match=r"file\.json has a value of more than 0 MiB at byte 10; expected smaller ones"):
        read(path, 1000)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match=r"pipe\.json cannot be read \(it is a named pipe, and no file\)"):
        read(tmp_path / "pipe.json")
