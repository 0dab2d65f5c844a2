"""Text of strangers in Markdown: code, in which nothing is markup."""

from __future__ import annotations

import re

from taskarith.errors import readable

__all__ = ["code", "code_block"]


def code(text: str) -> str:
    """Return a text as code within a line, whatever it holds: a fence is longer than any that the text has."""
    plain = readable(text)
    fence = _fence(plain, 1)
    pad = " " if plain.startswith("`") or plain.endswith("`") or not plain.strip() else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def code_block(text: str) -> str:
    """Return one line of text as a block of code."""
    plain = readable(text, 1 << 16)
    fence = _fence(plain, 3)
    return f"{fence}text\n{plain}\n{fence}"


def _fence(text: str, least: int) -> str:
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))
