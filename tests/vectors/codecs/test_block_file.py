"""Packed vector files of every kind: looked into, verified, compared, planned; and broken in every way."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
import zstandard
from packed_forms import FORMS, decoded, deltas_of
from safetensors.torch import load_file, save_file

import taskarith
from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.header import build_header, read_header
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.apply import apply
from taskarith.errors import TaskarithError, VectorError
from taskarith.inspection.verify import verify
from taskarith.spec import OperandRef
from taskarith.vectors.codecs.block_file import join_parts
from taskarith.vectors.extract import extract
from taskarith.vectors.open import open_vector


@pytest.mark.parametrize("form", list(FORMS))
def test_inspect_shows_the_decoded_deltas(vectors, pair, form):
    found, deltas = taskarith.inspect(vectors[form]), decoded(vectors[form], pair[0])
    assert found.kind == "vector"
    assert found.remarks == ()
    assert str(found.base) == str(pair[0])
    assert found.elements == sum(delta.numel() for delta in deltas.values())
    assert found.nbytes == sum(entry.nbytes for entry in read_header(vectors[form]).tensors)
    for tensor in found.tensors:
        delta = deltas[tensor.name]
        assert tensor.shape == tuple(delta.shape)
        assert tensor.norm == pytest.approx(float(delta.norm()), rel=1e-12)
        assert tensor.zeros == int((delta == 0).sum())
    assert not {"shapes", "errors", "deltas"} & found.record.keys()


def test_inspect_says_when_the_base_is_missing(tmp_path, pair, monkeypatch):
    base = shutil.copytree(pair[0], tmp_path / "base")
    path = extract(str(base), str(pair[1]), tmp_path / "v.safetensors", exact=True).path
    shutil.move(base, tmp_path / "gone")
    monkeypatch.setattr("taskarith.checkpoints.places.cache_folders", lambda _: [])  # which knows the copied base
    found = taskarith.inspect(path)
    assert "base" in found.remarks[0]
    assert found.norm == 0
    assert {tensor.dtype for tensor in found.tensors} == {"U8"}


@pytest.mark.parametrize("form", list(FORMS))
def test_diff_compares_deltas_whatever_their_form(tmp_path, vectors, pair, form):
    dense = extract(*map(str, pair), tmp_path / "dense.safetensors", dtype="float64").path
    deltas, exact = (
        decoded(vectors[form], pair[0]),
        {n: torch.from_numpy(d).double() for n, d in deltas_of(*pair).items()},
    )
    found = taskarith.diff(dense, vectors[form])
    assert found.only_first == found.only_second == ()
    distance = sum(float(((deltas[name] - exact[name]) ** 2).sum()) for name in exact) ** 0.5
    assert found.relative == pytest.approx(
        distance / sum(float((d**2).sum()) for d in exact.values()) ** 0.5, abs=1e-12
    )
    assert found.is_equal == (form == "exact")


@pytest.mark.parametrize("form", list(FORMS))
def test_verify_finds_one_changed_byte(tmp_path, vectors, form):
    found = verify(vectors[form])
    assert found.is_sound
    assert found.tensors == 33
    assert (found.sampled > 0) == (form != "quantised")
    path = Path(shutil.copy(vectors[form], tmp_path / "v.safetensors"))
    entry = max(read_header(path).tensors, key=lambda tensor: tensor.nbytes)
    with path.open("r+b") as file:
        file.seek(entry.offset + entry.nbytes // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    assert verify(path).damaged == (entry.name,)


@pytest.mark.parametrize("form", ["exact", "sparse"])
def test_verify_finds_another_finetune(tmp_path, pair, form):
    tuned = shutil.copytree(pair[1], tmp_path / "tuned")
    path = extract(str(pair[0]), str(tuned), tmp_path / "v.safetensors", **FORMS[form]).path
    tensors = load_file(tuned / "model.safetensors")
    tensors["lm_head.bias"] += 1
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    found = verify(path)
    assert found.damaged == ()
    assert found.wrong == ()
    assert found.unsampled == "the fine-tune has changed since"


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("alpha", [1.0, -0.5])
def test_an_edit_is_verified_again(tmp_path, vectors, pair, form, alpha):
    apply(str(pair[0]), add=[str(vectors[form])], alpha=alpha, output_dir=tmp_path / "out", keep_undo=True)
    found = verify(tmp_path / "out")
    assert found.is_sound
    assert found.sampled > 0
    assert found.unsampled == ""
    taskarith.undo(tmp_path / "out", tmp_path / "again")
    assert oracle.differing(oracle.load(tmp_path / "again"), oracle.load(pair[0])) == []


@pytest.mark.parametrize("form", list(FORMS))
def test_a_dry_run_counts_the_bytes_that_are_stored(tmp_path, vectors, pair, form):
    found = apply(str(pair[0]), add=[str(vectors[form])], output_dir=tmp_path / "out", dry_run=True)
    stored = sum(entry.nbytes for entry in read_header(vectors[form]).tensors)
    assert found.read_bytes == stored + sum(t.numel() * 2 for t in oracle.load(pair[0]).values())
    assert list(tmp_path.iterdir()) == []


def rewritten(path, target, *, blob=lambda data: data, metadata=lambda table: table, name="lm_head.weight"):
    """Copy a vector file with the blob of one tensor or the header changed."""
    header = read_header(path)
    with TensorReader() as reader:
        blobs = {entry.name: bytes(reader.read(entry, 0, entry.nbytes)) for entry in header.tensors}
    blobs[name] = blob(blobs[name])
    start, _ = build_header([(key, "U8", (len(data),)) for key, data in blobs.items()], metadata(dict(header.metadata)))
    target.write_bytes(start + b"".join(blobs.values()))
    return target


def index_of(*sizes):
    return b"".join(size.to_bytes(4, "little") for size in sizes)


def one_block(data):
    """Return the blob of a tensor of one block."""
    return data + index_of(len(data))


def frame(size):
    return zstandard.ZstdCompressor().compress(bytes(size))


ELEMENTS = 384 * 32
MASK = ELEMENTS // 8
FULL, TWO = b"\xff" * MASK, b"\3" + bytes(MASK - 1)
BROKEN = {
    "truncated": lambda data: data[:-5],
    "no index": lambda _: b"",
    "block beyond the end": lambda data: data[:-4] + index_of(len(data)),
    "block before the end": lambda data: data[:-4] + index_of(len(data) - 5),
    "garbage": lambda _: one_block(os.urandom(100)),
    "zeros": lambda data: bytes(len(data) - 4) + data[-4:],
    "parts beyond the end": lambda _: one_block(index_of(2**32 - 1, 0, 0, 0, 0)),
    "no frame": lambda _: one_block(index_of(4, 4, 4, 4, 4) + b"abcd" * 5),
    "bomb": lambda _: one_block(join_parts([bytes(9) + b"1", b"1" * (1 << 26)] + [b"1" * (1 << 26)] * 3)),
    "short": lambda _: one_block(join_parts([TWO, b"1", b"1", b"1", b"1"])),
    "long": lambda _: one_block(join_parts([TWO, *[b"123"] * 4])),
    "two frames": lambda _: one_block(index_of(*[2 * len(frame(MASK))] * 5) + frame(MASK) * 10),
}


@pytest.mark.parametrize("how", list(BROKEN))
@pytest.mark.parametrize("form", list(FORMS))
def test_broken_blobs_are_refused_by_name(tmp_path, vectors, pair, form, how):
    path = rewritten(vectors[form], tmp_path / "v.safetensors", blob=BROKEN[how])
    with pytest.raises(VectorError, match=r"lm_head\.weight in .* is broken") as caught:
        apply(str(pair[0]), add=[str(path)], output_dir=tmp_path / "out")
    assert "extract it again" in caught.value.hint
    with pytest.raises(VectorError, match="is broken"):
        taskarith.inspect(path)
    assert verify(path).damaged == ("lm_head.weight",)
    assert [file.name for file in tmp_path.iterdir()] == ["v.safetensors"]


def test_positions_beyond_the_tensor_are_refused(tmp_path, vectors, pair):
    """The mask of 3 elements has 5 bits that must not be set; a further change cannot be that of element 3."""
    for folder, value in ((tmp_path / "base", 0.0), (tmp_path / "tuned", 1.0)):
        shutil.copytree(pair[0], folder)
        tensors = load_file(folder / "model.safetensors") | {"odd": torch.full((3,), value, dtype=torch.bfloat16)}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tables = join_parts([bytes(256 + 2) + b"\3\0\0\0" + b"1\0"])
    blocks = {"exact": index_of(len(tables), 1) + tables, "sparse": join_parts([b"\x0f", *[b"1234"] * 4])}
    for form, block in blocks.items():
        ends = (tmp_path / "base", tmp_path / "tuned")
        path = extract(*map(str, ends), tmp_path / f"{form}.safetensors", **FORMS[form]).path
        bad = rewritten(path, tmp_path / "bad.safetensors", blob=lambda _, block=block: one_block(block), name="odd")
        with pytest.raises(VectorError, match=r"odd in .* is broken"):
            apply(str(tmp_path / "base"), add=[str(bad)], output_dir=tmp_path / "out")


@pytest.mark.parametrize("options", ["{}", '{"layout": 1}', ""])
def test_exact_vectors_of_another_layout_are_refused(tmp_path, vectors, pair, options):
    path = rewritten(vectors["exact"], tmp_path / "v", metadata=lambda table: table | {"options": options})
    with pytest.raises(VectorError, match="another layout"):
        apply(str(pair[0]), add=[str(path)], output_dir=tmp_path / "out")


HEADERS = {
    "no shapes": {"shapes": None},
    "no table": {"shapes": "[1]"},
    "no json": {"shapes": "{"},
    "a hole": {"shapes": json.dumps({"lm_head.weight": ["F32", [384, 32]]})},
    "odd dtype": {"shapes": lambda table: table | {"lm_head.weight": ["I8", [384, 32]]}},
    "list dtype": {"shapes": lambda table: table | {"lm_head.weight": [["F32"], [384, 32]]}},
    "negative": {"shapes": lambda table: table | {"lm_head.weight": ["F32", [-384, 32]]}},
    "fraction": {"shapes": lambda table: table | {"lm_head.weight": ["F32", [384.0, 32]]}},
    "no pair": {"shapes": lambda table: table | {"lm_head.weight": ["F32"]}},
    "no list": {"shapes": lambda table: table | {"lm_head.weight": ["F32", 384]}},
    "absurd": {"shapes": lambda table: table | {"lm_head.weight": ["F32", [2**60]]}},
    "zero block": {"block": "0"},
    "huge block": {"block": "99999999"},
    "odd block": {"block": "1²"},
    "no block": {"block": None},
    "unknown kind": {"kind": "magic"},
}


@pytest.mark.parametrize("how", list(HEADERS))
@pytest.mark.parametrize("form", list(FORMS))
def test_broken_headers_are_refused(tmp_path, vectors, pair, form, how):
    def change(table):
        for key, value in HEADERS[how].items():
            if value is None:
                del table[key]
            else:
                table[key] = value if isinstance(value, str) else json.dumps(value(json.loads(table[key])))
        return table

    path = rewritten(vectors[form], tmp_path / "v.safetensors", metadata=change)
    with pytest.raises(VectorError, match=r"broken header|does not read"):
        apply(str(pair[0]), add=[str(path)], output_dir=tmp_path / "out")
    assert taskarith.inspect(path).remarks != ()


def test_large_shapes_need_large_blobs(tmp_path, vectors, pair):
    """A shape that says more than the blob holds is found before anything is allocated for it."""
    base = open_checkpoint(pair[0])
    table = {"lm_head.weight": ["F32", [2**40, 2**40]]}
    path = rewritten(
        vectors["sparse"],
        tmp_path / "v.safetensors",
        metadata=lambda header: header | {"shapes": json.dumps(json.loads(header["shapes"]) | table)},
    )
    with pytest.raises(TaskarithError, match=r"lm_head\.weight"):
        apply(str(pair[0]), add=[str(path)], output_dir=tmp_path / "out")
    with TensorReader() as reader, pytest.raises(VectorError, match="too short for its shape"):
        open_vector(OperandRef(str(path), 1.0), base).vector.delta("lm_head.weight").open(reader)


@pytest.mark.parametrize("options", ["", "{}", "[]", '{"bits": 3}', '{"bits": "x"}', '{"bits": [8]}'])
def test_quantised_vectors_say_how_many_bits(tmp_path, vectors, pair, options):
    path = rewritten(vectors["quantised"], tmp_path / "v", metadata=lambda table: table | {"options": options})
    with pytest.raises(VectorError, match=r"broken header: (it does not say how many bits|.options.)"):
        apply(str(pair[0]), add=[str(path)], output_dir=tmp_path / "out")


def test_random_damage_is_found(tmp_path, vectors, pair):
    """Whatever bytes are hit: the edit is refused, and reads nothing outside."""
    generator = np.random.default_rng(0)
    for form in FORMS:
        data = bytearray(vectors[form].read_bytes())
        start = min(entry.offset for entry in read_header(vectors[form]).tensors)
        for number in range(25):
            spoiled = bytearray(data)
            for place in generator.integers(start, len(data), 40):
                spoiled[place] = generator.integers(0, 256)
            path = tmp_path / f"{form}.safetensors"
            path.write_bytes(spoiled)
            with pytest.raises(TaskarithError):
                apply(str(pair[0]), add=[str(path)], output_dir=tmp_path / f"{form}{number}")
