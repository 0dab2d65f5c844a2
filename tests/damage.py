"""Damage files, and compare folders."""

from __future__ import annotations

from pathlib import Path

from taskarith.checkpoints.header import read_header


def flip(path, tensor, element=0):
    """Change one bit of one element of a tensor in a file."""
    entry = next(one for one in read_header(path).tensors if one.name == tensor)
    with path.open("r+b") as file:
        file.seek(entry.offset + element * entry.nbytes // entry.elements)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
