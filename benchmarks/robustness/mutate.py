"""Damage sound files so that they stay nearly sound: any value, key, name or byte may become what nobody expects."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["mutate_bytes", "mutate_json", "mutate_safetensors", "mutate_text", "replace_file"]

_CUT = 1 << 12
_MARK, _PLAIN = "raw part ", {str, int, float, bool, type(None)}


class _Raw(str):
    """Text that stands in a JSON file as it is."""

    __slots__ = ()


class _Pairs(list[tuple[str, Any]]):
    """An object that may have a key twice."""


_STRINGS = (
    "", " ", "\0", "\ud800", "a\udfffb", "../../etc/passwd", "/dev/zero", "/etc/passwd", "a/b", ".", "..", "\n",
    "\r\n", "\x1b[31mred\x1b[0m", "[bold]markup[/bold]", "{{ 7 * 7 }}", "%s%n", "x" * 100_000, "\u202e", "é" * 300,
    "null", "nan", "1e400", "-1", "9" * 400, "[" * 2000, "{}", "[]", "(a+)+$", "(", "*", "?", "a,b", "true", "F32",
    "U8", "~", "@@", "@",
)  # fmt: skip
_NUMBERS = (
    "0", "-0.0", "-1", "1", "2", "3", "0.5", "1e308", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "1e-320",
    "2147483648", "4294967296", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
    "18446744073709551616", "1" + "0" * 400, "1" + "0" * 5000, "281474976710655", "1000000000000",
)  # fmt: skip
_RAWS = (
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 50_000 + "1" + "}" * 50_000,
    "[" * 900 + "]" * 900,
    '{"a":' * 900 + "1" + "}" * 900,
    "[" + "0," * 50_000 + "0]",
    '{"a":1,"a":2}',
    '"\\ud800"',
)


def mutate_json(rng: Random, text: str) -> bytes:
    """Damage a JSON document at one to three places; sometimes its bytes instead."""
    if rng.random() < 0.15:
        return mutate_bytes(rng, text.encode("utf-8", "surrogatepass"))
    value = _parsed(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _mutate_value(rng, value)
    return _dump(value).encode("utf-8", "surrogatepass")


@functools.lru_cache(64)
def _parsed(text: str) -> Any:
    """Parse sound JSON once: what is damaged is copied."""
    return json.loads(text)


def mutate_safetensors(rng: Random, data: bytes) -> bytes:
    """Damage a safetensors file: its header, what is JSON inside its metadata, its tensors' bytes, or its length."""
    length = int.from_bytes(data[:8], "little")
    header, body, kind = data[8 : 8 + length], data[8 + length :], rng.random()
    if kind < 0.15:
        return mutate_bytes(rng, data)
    if kind < 0.3:
        return data[: 8 + length] + mutate_bytes(rng, body)
    table = json.loads(header)
    metadata = table.get("__metadata__") or {}
    if metadata and kind < 0.7:
        key = rng.choice(sorted(metadata))
        if metadata[key][:1] in {"{", "["} and rng.random() < 0.8:
            metadata[key] = mutate_json(rng, metadata[key]).decode("utf-8", "replace")
        else:
            metadata[key] = _string(rng)
    else:
        table = _mutate_value(rng, table)
    text = _dump(table).encode("utf-8", "surrogatepass")
    size = len(text) if rng.random() < 0.97 else rng.choice((0, 1, 2**63, 2**64 - 1, len(text) - 1, len(text) + 8))
    return size.to_bytes(8, "little") + text + body


def mutate_text(rng: Random, text: str) -> bytes:
    """Damage text such as YAML, CSV or a specification: a value, a line, a mark of its language, or bytes."""
    kind = rng.random()
    if kind < 0.3:
        return mutate_bytes(rng, text.encode())
    spans = [match.span() for match in re.finditer(r"[\w./-]+", text)] or [(0, 0)]
    if kind < 0.7:
        start, end = rng.choice(spans)
        put = rng.choice((_string(rng), rng.choice(_NUMBERS), rng.choice(_RAWS[2:])))
        return (text[:start] + put + text[end:]).encode("utf-8", "surrogatepass")
    marks = (
        ":",
        "=",
        ",",
        "@@",
        "@",
        "..",
        "[",
        "{",
        "- ",
        "&a ",
        "*a",
        "!!python/object:os.system ",
        "\t",
        '"',
        "'",
        "#",
    )
    for _ in range(rng.randint(1, 3)):
        place = rng.randint(0, len(text))
        text = text[:place] + rng.choice(marks) + text[place:]
    if kind > 0.97:
        text = (
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
            + text
        )
    return text.encode("utf-8", "surrogatepass")


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """Flip bits, cut, repeat, insert, or append."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place, span = rng.randint(0, len(raw)), rng.choice((1, 2, 4, 8, 64))
        match rng.randrange(7):
            case 0 | 1 if raw:
                raw[min(place, len(raw) - 1)] ^= 1 << rng.randrange(8)
            case 2:
                del raw[place:]
            case 3:
                del raw[place : place + span]
            case 4:
                raw[place:place] = raw[place : place + span] * rng.choice((1, 2, 50))
            case 5:
                raw[place : place + span] = rng.choice((b"\xff", b"\0", b"\x80")) * span
            case _:
                raw[place:place] = rng.choice(
                    (b"\xed\xa0\x80", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"[" * _CUT, b"\0" * 9)
                )
    return bytes(raw)


def replace_file(rng: Random, path: Path) -> None:
    """Put something else in the place of a file: nothing, a folder, a pipe, a device, or a link that leads astray."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    match rng.randrange(8):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to("/dev/zero")
        case 3:
            path.symlink_to(path.name)
        case 4:
            path.symlink_to("absent")
        case 5:
            path.symlink_to("/dev/stdin")
        case 6:
            path.write_bytes(b"")
        case _:
            pass


def _mutate_value(rng: Random, value: Any) -> Any:
    """Change one value, or one key, somewhere in a JSON value."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return _strange(rng, value)
    if isinstance(value, _Pairs):
        return value
    if isinstance(value, list):
        return _mutate_list(rng, value)
    value, kind = dict(value), rng.random()
    key = rng.choice(sorted(value, key=str))
    if kind < 0.1:
        del value[key]
    elif kind < 0.2:
        value = {(_string(rng) if one == key else one): item for one, item in value.items()}
    elif kind < 0.25:
        value[_string(rng)] = _strange(rng, value[key])
    elif kind < 0.3:
        return _Pairs([*value.items(), (key, _strange(rng, value[key]))])
    elif kind < 0.4 and len(value) > 1:
        value[key] = value[rng.choice(sorted(value, key=str))]
    else:
        value[key] = _mutate_value(rng, value[key])
    return value


def _mutate_list(rng: Random, value: list[Any]) -> list[Any]:
    value, place = list(value), rng.randrange(len(value))
    match rng.randrange(5):
        case 0:
            del value[place]
        case 1:
            value.insert(place, value[place])
        case 2:
            value.append(_strange(rng, value[place]))
        case _:
            value[place] = _mutate_value(rng, value[place])
    return value


def _strange(rng: Random, value: Any) -> Any:
    """Return something else than a value; often of another type, sometimes a near miss of the same."""
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.3:
        return rng.choice((-value, value + 1, value - 1, value * 2, value / 2, str(value), [value], not value))
    match rng.randrange(7):
        case 0:
            return rng.choice((None, True, False))
        case 1 | 2:
            return _Raw(rng.choice(_NUMBERS))
        case 3 | 4:
            return _string(rng)
        case 5:
            return rng.choice(([], {}, [value], {"a": value}, [[]], [{}], [None], {"": None}, [value, value]))
        case _:
            return _Raw(rng.choice(_RAWS))


def _string(rng: Random) -> str:
    return rng.choice(_STRINGS)


def _dump(value: Any) -> str:
    """Write JSON with raw parts and repeated keys; surrogates are escaped or left as bytes that are not UTF-8."""
    raws: list[str] = []
    text = json.dumps(_marked(value, raws), separators=(",", ":"))
    for number, raw in enumerate(raws):
        text = text.replace(f'"{_MARK}{number}"', raw, 1)
    return text


def _marked(value: Any, raws: list[str]) -> Any:
    """Return a value whose parts that JSON cannot hold are texts, which stand for what is noted."""
    if isinstance(value, _Raw | _Pairs):
        raws.append(str(value) if isinstance(value, _Raw) else _dump_pairs(value))
        return f"{_MARK}{len(raws) - 1}"
    if isinstance(value, dict):
        return {key: _marked(item, raws) if type(item) not in _PLAIN else item for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item, raws) if type(item) not in _PLAIN else item for item in value]
    return value


def _dump_pairs(pairs: _Pairs) -> str:
    return "{" + ",".join(f"{json.dumps(key)}:{_dump(item)}" for key, item in pairs) + "}"
