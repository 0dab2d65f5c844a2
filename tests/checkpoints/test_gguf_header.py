"""The header of a GGUF file claims no more than the file holds."""

from __future__ import annotations

import struct

import pytest

from taskarith.checkpoints.gguf_header import check_gguf
from taskarith.errors import CheckpointError


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def header(keys=(), tensors=(), version=3) -> bytes:
    entries = b"".join(
        text(b"t") + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape) + bytes(12)
        for shape in tensors
    )
    return struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(keys)) + b"".join(keys) + entries


def array(kind: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + data


NESTED = array(9, 1) * 5
LAYERS = key(b"llama.block_count", 4, struct.pack("<I", 2))
WIDTH = [key(b"general.architecture", 8, text(b"llama")), key(b"llama.embedding_length", 4, struct.pack("<I", 4))]
SOUND = [
    *WIDTH,
    key(b"llama.block_count", 4, struct.pack("<I", 1)),
    key(b"a", 8, text(b"x")),
    key(b"b", 9, array(5, 3, bytes(12))),
    key(b"c", 9, array(8, 1, text(b"y"))),
]


@pytest.mark.parametrize(
    "data", [header(SOUND, [(4,)]), header([*WIDTH, LAYERS], [(4, 4)] * 2), header(version=9) + b"\xff"]
)
def test_a_sound_header_passes_and_unknown_versions_are_left_to_the_library(tmp_path, data):
    (tmp_path / "m.gguf").write_bytes(data)
    check_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header()[:-1], "claims more than the 23 bytes"),
        (header([key(b"a", 8, struct.pack("<Q", 1 << 60))]), "claims more than"),
        (header([key(b"a", 9, array(0, 1 << 60))]), "claims more than"),
        (header([key(b"a", 99, b"")]), "unknown type 99"),
        (header([key(b"a", 9, NESTED)]), "nested too deeply"),
        (header(SOUND, [(3,)]), "embedding_length is 4, and no tensor is as wide"),
        (header(SOUND[1:], [(4,)]), "embedding_length is missing"),
        (header(WIDTH, [(4,)]), "block_count is missing"),
        (header([*WIDTH, LAYERS], [(4, 4)]), "claims 2 layers, and has 1 tensors"),
        (header(tensors=[(1 << 20, 1 << 20)]), "claim 1099511627776 elements"),
        (header(tensors=[(1,) * 9]), "9 dimensions"),
    ],
)
def test_a_header_that_claims_too_much_is_refused(tmp_path, data, words):
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match=words) as caught:
        check_gguf(tmp_path / "m.gguf")
    assert "m.gguf is not a sound GGUF file" in caught.value.message
