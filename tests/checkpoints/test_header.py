"""Headers of safetensors files: what is sound is read, what lies is refused."""

from __future__ import annotations

import os
import struct

import oracle
import pytest
import tiny
import torch
from headers import tensor, write_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import _TYPES, load_file, save_file

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.header import build_header, read_header
from taskarith.edit.apply import apply
from taskarith.errors import CheckpointError
from taskarith.vectors.extract import extract

HOSTILE = {
    "empty": (b"", "header"),
    "no json": (b"{", "safetensors"),
    "a list": ([1], "not a JSON object"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, "metadata"),
    "size that does not follow": ({"a": tensor(offsets=(0, 4))}, "cannot have"),
    "reversed offsets": ({"a": tensor(offsets=(8, 0))}, "cannot have"),
    "negative offset": ({"a": tensor(offsets=(-8, 0))}, "shape and offsets"),
    "overlap": ({"a": tensor(), "b": tensor(offsets=(4, 12))}, "overlaps"),
    "the same bytes twice": ({"a": tensor(), "b": tensor()}, "overlaps"),
    "gap": ({"a": tensor(), "b": tensor(offsets=(16, 24))}, "gap"),
    "beyond the end": ({"a": tensor(), "b": tensor(offsets=(8, 16)), "c": tensor(offsets=(16, 24))}, "end at byte"),
    "huge shape": ({"a": tensor(shape=(2**40, 2**40))}, "cannot have"),
    "true as a size": ({"a": tensor(shape=(True, 2))}, "shape and offsets"),
    "dtype of half a byte": ({"a": tensor(dtype="F4")}, r"1 tensors of a dtype that is not known here: a \(F4\)"),
    "dtype of the future": ({"a": tensor(dtype="F8_E3M4")}, r"a \(F8_E3M4\)"),
    "half a character": ({"a": tensor(dtype="F8_E3M4\ud800")}, "half of a surrogate"),
    "dtype that is a list": ({"a": tensor(dtype=["F32"])}, "'a' has no dtype"),
    "name twice": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', "twice"),
    "no description": ({"a": 3}, "no description"),
    "deep nesting": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "safetensors"),
}


def test_only_a_header_that_lies_is_called_unsound(tmp_path):
    path = write_raw(tmp_path / "model.safetensors", {"a": tensor(dtype="F6_E2M3")}, bytes(8))
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert "sound" not in caught.value.message
    assert "Download" not in caught.value.hint
    assert "bfloat16" in caught.value.hint


@pytest.mark.parametrize("name", _TYPES)
def test_every_dtype_of_whole_bytes_is_read_and_copied(tmp_path, name):
    folder = tiny.save_model(tmp_path / "m", "llama")
    tensors = load_file(folder / "model.safetensors")
    size = _TYPES[name].itemsize
    kept = torch.arange(6 * size, dtype=torch.uint8).view(_TYPES[name]).view(2, 3)
    save_file(tensors | {"extra": kept}, folder / "model.safetensors")
    entry = open_checkpoint(folder).tensors["extra"]
    assert (entry.dtype, entry.shape, entry.nbytes) == (name, (2, 3), 6 * size)
    tuned = tiny.save_model(tmp_path / "tuned", "llama", nudge_of=folder, seed=1)
    save_file(load_file(tuned / "model.safetensors") | {"extra": kept}, tuned / "model.safetensors")
    extract(str(folder), str(tuned), tmp_path / "v.safetensors")
    result = apply(str(folder), negate=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / "out")
    assert result.actions.get("copied", 0) == (0 if entry.is_float else 1)
    assert oracle.load(tmp_path / "out")["extra"].view(torch.uint8).flatten().tolist() == list(range(6 * size))


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_refused(tmp_path, case):
    table, words = HOSTILE[case]
    path = write_raw(tmp_path / "model.safetensors", table, bytes(16))
    with pytest.raises(CheckpointError, match=words) as caught:
        read_header(path)
    assert "model.safetensors" in caught.value.message


def test_absurd_header_length_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(CheckpointError, match="ends inside"):
        read_header(path)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**28))
        file.truncate(2**28 + 8)
    with pytest.raises(CheckpointError, match="its header claims"):
        read_header(path)


def test_what_is_no_regular_file_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "loop"):
        with pytest.raises(CheckpointError):
            read_header(path)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.arange(4.0), "b": torch.ones(3, dtype=torch.int64)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_header(path)


_shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8), st.tuples(st.sampled_from(["F32", "BF16", "I64", "BOOL"]), _shapes)
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_a_header_we_build_is_read_by_us_and_by_safetensors(tmp_path_factory, tensors, metadata):
    tensors.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("h") / "m.safetensors"
    header, offsets = build_header([(name, *rest) for name, rest in tensors.items()], metadata, length=500)
    entries_end = max([len(header), *(0,)])
    path.write_bytes(header)
    sizes = {"F32": 4, "BF16": 2, "I64": 8, "BOOL": 1}
    for dtype, shape in tensors.values():
        entries_end += int(torch.tensor(shape).prod().item()) * sizes[dtype] if shape else sizes[dtype]
    with path.open("r+b") as file:
        file.truncate(entries_end)
    ours = read_header(path)
    assert {entry.name: (entry.dtype, entry.shape) for entry in ours.tensors} == tensors
    assert {entry.name: entry.offset for entry in ours.tensors} == offsets
    assert ours.metadata == metadata
    assert len(header) % 8 == 0
    assert {name: tuple(value.shape) for name, value in load_file(path).items()} == {
        n: s for n, (_, s) in tensors.items()
    }


def test_a_tensor_is_the_same_when_its_file_has_been_touched(tmp_path):
    path = write_raw(tmp_path / "m.safetensors", {"a": tensor()}, bytes(8))
    before = read_header(path).tensors[0]
    os.utime(path, (1, 1))
    after = read_header(path).tensors[0]
    assert (after == before, after.state == before.state) == (True, False)
    assert str(before.state) not in repr(before)  # errors name tensors, not the inodes of their files
