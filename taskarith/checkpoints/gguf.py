"""GGUF models: dequantised once by transformers and kept as safetensors in the cache."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock

from taskarith.checkpoints.cache import cache_folders, writable_caches
from taskarith.checkpoints.gguf_header import check_gguf
from taskarith.checkpoints.publish import publish_folder
from taskarith.errors import CheckpointError, OutputError, name_some
from taskarith.progress import SILENT, Listener

__all__ = ["dequantize_gguf", "find_gguf"]

_CACHE = "gguf"


def find_gguf(path: Path) -> Path | None:
    """Return the GGUF file that a path means: itself, or the only one in a folder without safetensors.

    :raises CheckpointError: A folder has several, or a file is not a GGUF file.
    """
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise CheckpointError(
                    f"{path} is neither a model folder nor a GGUF file", "Give the folder that holds the model."
                )
        return path
    if any(path.glob("*.safetensors")):
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise CheckpointError(f"{path} holds {len(files)} GGUF files", f"Name one of them, as in {files[0]}")
    return files[0] if files else None


def dequantize_gguf(path: Path, listener: Listener = SILENT) -> Path:
    """Return a float32 safetensors folder of a GGUF model, converting it the first time.

    The folder is found again by the content of the file, so a changed file is converted anew.

    :raises CheckpointError: The file claims more than it holds, or transformers cannot read this model.
    :raises OutputError: There is no room for it.
    """
    check_gguf(path)
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            state.update(piece)
    name = f"{path.stem}-{state.hexdigest()[:16]}"
    for folder in cache_folders(_CACHE):
        if _is_complete(folder / name):
            return folder / name
    cache = next(writable_caches(_CACHE), None)
    if cache is None:
        raise OutputError(
            f"{path} is dequantised into the cache, and no cache folder can be written",
            "Set TASKARITH_CACHE to a folder with room for the model in float32.",
        )
    target = cache / name
    with FileLock(target.with_name(f".{target.name}.lock"), mode=0o666):  # one process converts, others wait for it
        if not _is_complete(target):
            listener.note(f"dequantising {path.name} to float32; it is kept in {target}")
            with publish_folder(target, overwrite=True) as partial:
                _convert(path, partial, listener)
    return target


def _is_complete(folder: Path) -> bool:
    try:
        return (folder / "config.json").exists()
    except OSError:  # a folder of somebody else's
        return False


def _convert(path: Path, target: Path, listener: Listener) -> None:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        listener.progress(f"reading {path.name} | tokenizer", 0, 3)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        if tokenizer is None:
            raise ValueError("it has no tokenizer that transformers knows")
        tokenizer.save_pretrained(target)
        listener.progress(f"reading {path.name} | weights", 1, 3)
        with redirect_stderr(io.StringIO()):  # a bar of its own, which no setting turns off
            load: Any = AutoModelForCausalLM.from_pretrained  # its annotation forgets what output_loading_info adds
            model, loading = load(
                path.parent,
                gguf_file=path.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
        if missing := sorted(loading["missing_keys"]):
            raise ValueError(f"it lacks {len(missing)} weights, which would be random numbers: {name_some(missing)}")
        listener.progress(f"reading {path.name} | saving", 2, 3)
        model.save_pretrained(target)
    except (OSError, SafetensorError):
        raise  # of the disk that is written
    except Exception as error:  # of as many kinds as a damaged file can be wrong
        raise CheckpointError(
            f"transformers cannot read {path}: {str(error) or type(error).__name__}",
            "Use the model's safetensors version instead.",
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
