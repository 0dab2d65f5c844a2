"""The command of an output as others can repeat it: without the folders of the machine that it ran on."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePath

from taskarith.spec import exists

__all__ = ["public_command"]

_PROGRAMS = {"taskarith", "__main__.py"}
_OUTPUTS = {"-o", "--output", "--output-dir", "--out"}
_OF_THE_RUN = {"--overwrite", "--resume", "--quiet", "-q", "--verbose", "-v", "--json"}
"""Flags that change nothing in the output."""
_BETWEEN = re.compile(r"([=:,@]+)")
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def public_command(command: str) -> str:
    """Return a recorded command with the last part of every path in its place; empty for a call from Python.

    The output is called so, and what concerns the run alone is left out: the same edit has the same command.

    What has the form of a hub id and does not exist on this machine is taken for one.

    :param command: As ``command_line`` returned it.
    """
    try:
        program, *words = shlex.split(command)
    except ValueError:
        return ""
    if program not in _PROGRAMS:
        return ""
    pairs = [pair for pair in zip([program, *words], words, strict=False) if pair[1] not in _OF_THE_RUN]
    short = [_output(word) if before in _OUTPUTS else _shortened(word) for before, word in pairs]
    return shlex.join(["taskarith", *short])


def _output(name: str) -> str:
    return f"output{PurePath(name).suffix}"


def _shortened(word: str) -> str:
    option, found, name = word.partition("=")
    if found and option in _OUTPUTS:
        return f"{option}={_output(name)}"
    if "/" not in word:
        return word
    if exists(word):
        return PurePath(word).name
    return " ".join("".join(_name(piece) for piece in _BETWEEN.split(part)) for part in word.split(" "))


def _name(piece: str) -> str:
    is_path = "/" in piece and (exists(piece) or not _HUB_ID.fullmatch(piece))
    return PurePath(piece).name if is_path else piece
