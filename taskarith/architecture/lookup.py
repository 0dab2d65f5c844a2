"""The architecture of a model folder: from transformers, cached, or guessed from tensor names."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from taskarith.architecture.guess import guess_architecture
from taskarith.architecture.layout import Architecture
from taskarith.checkpoints.cache import cache_folders, keep_file, writable_caches
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.progress import SILENT, Listener

__all__ = ["architectures_of", "lost_by_peft"]

_SOURCES = ("ask.py", "layout.py", "trace.py")
_CACHE = "architectures"
_ASKING = "reading the model's class"


def architectures_of(checkpoint: Checkpoint, listener: Listener = SILENT) -> Iterator[Architecture]:
    """Yield the architecture of a folder for each class it may be loaded as, likeliest first.

    The first call builds the model with transformers, which takes some seconds, and caches the result. If transformers
    cannot build it, a single architecture is guessed from the names in the files, with a ``remark`` that says why.

    :param checkpoint: The model.
    :param listener: Receives progress updates.
    """
    key, default, is_found = _key(checkpoint), "it has no class of that kind", False
    classes, reason = _cached(f"{key}-classes", lambda: _ask_classes(checkpoint), listener)
    for name, auto in (classes or {}).items():
        value, error = _cached(f"{key}-{name}", lambda name=name, auto=auto: _ask(checkpoint, name, auto), listener)
        if value is not None:
            is_found = True
            yield Architecture.from_json(value)
        else:
            reason = reason or error
    if not is_found:
        remark = (
            f"transformers cannot build {checkpoint.path} ({reason or default}): the module of each tensor is guessed "
            "from its name"
        )
        yield guess_architecture(checkpoint, remark)


def lost_by_peft(
    checkpoint: Checkpoint, model_class: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> set[str]:
    """Return the same as ``peft_check.lost_by_peft``; where PEFT loaded such an adapter before, from the cache."""
    asked = json.dumps([model_class, config, list(shapes.items())], sort_keys=True).encode()
    code = Path(__file__).with_name("peft_check.py").read_bytes()
    version = importlib.metadata.version("peft").encode()
    name = f"{_key(checkpoint)}-peft-{xxhash.xxh3_128_hexdigest(b''.join([asked, code, version]))}"
    known = _stored(name)
    if isinstance(known, list):
        return {str(one) for one in known}
    from taskarith.architecture.peft_check import lost_by_peft as ask  # late: heavy imports

    lost = ask(checkpoint, model_class, config, shapes)
    _store(name, sorted(lost))
    return lost


def _ask_classes(checkpoint: Checkpoint) -> dict[str, str]:
    from taskarith.architecture.ask import model_classes  # late: heavy imports

    return model_classes(checkpoint)


def _ask(checkpoint: Checkpoint, name: str, auto: str) -> dict[str, Any]:
    from taskarith.architecture.ask import describe_model

    return describe_model(checkpoint, name, auto).to_json()


def _cached(name: str, ask: Callable[[], Any], listener: Listener) -> tuple[Any, str]:
    """Return the value from the cache, or compute and store it; on failure, return None and the reason."""
    value = _stored(name)
    if value is not None:
        return value, ""
    listener.progress(_ASKING, 0, 1)
    try:
        value = ask()
    except Exception as error:  # the code of a model's class may raise anything
        return None, str(error).strip().partition("\n")[0] or type(error).__name__
    _store(name, value)
    return value, ""


def _stored(name: str) -> Any:
    """Return a value from the cache, or None."""
    for folder in cache_folders(_CACHE):
        with suppress(OSError, ValueError):
            return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return None


def _store(name: str, value: Any) -> None:
    cache = next(writable_caches(_CACHE), None)
    if cache is not None:  # otherwise the next run computes it again
        keep_file(cache / f"{name}.json", json.dumps(value).encode())


def _key(checkpoint: Checkpoint) -> str:
    """Return a cache key of everything the result depends on: configuration, names, shapes and code."""
    state = xxhash.xxh3_128(json.dumps(checkpoint.config, sort_keys=True).encode())
    state.update(json.dumps([(name, entry.shape) for name, entry in checkpoint.tensors.items()]).encode())
    state.update(_code())
    return state.hexdigest()


@functools.cache
def _code() -> bytes:
    """Return the version of transformers and the sources of this package's part."""
    sources = [Path(__file__).with_name(source).read_bytes() for source in _SOURCES]
    return b"".join([importlib.metadata.version("transformers").encode(), *sources])
