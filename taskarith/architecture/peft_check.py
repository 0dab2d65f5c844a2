"""A check that PEFT loads an adapter, on a model without weights, before anything is written."""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model_state_dict

from taskarith.architecture.ask import build_model, quietly
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import build_header
from taskarith.errors import OutputError

__all__ = ["lost_by_peft"]

_NAME = "default"
"""PEFT's default adapter name, which is part of names in memory but not in files."""


def lost_by_peft(
    checkpoint: Checkpoint, model_class: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> set[str]:
    """Return the tensors of an adapter file that PEFT would not load into the model.

    :param checkpoint: The base.
    :param model_class: The class it is loaded as.
    :param config: ``adapter_config.json``.
    :param shapes: Names and shapes in the adapter file.
    :raises OutputError: Temporary files cannot be written.
    :raises Exception: Whatever PEFT raises if it cannot load the folder at all.
    """
    model = build_model(checkpoint, model_class)
    with _trial_folder(config, shapes) as name, quietly(), warnings.catch_warnings():
        loaded = PeftModel(model, PeftConfig.from_pretrained(name), _NAME, low_cpu_mem_usage=True)
        result = loaded.load_adapter(name, _NAME, low_cpu_mem_usage=True, torch_device="cpu")
        loaded_names = get_peft_model_state_dict(loaded, save_embedding_layers=False)
    missing = {key.replace(f".{_NAME}", "") for key in result.missing_keys}
    return {key for key in shapes if key not in loaded_names or key in missing}


@contextmanager
def _trial_folder(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Generator[str]:
    """Yield a temporary adapter folder with sparse files, which read as zeros."""
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
            header, offsets = build_header([(key, "BF16", shape) for key, shape in shapes.items()], {"format": "pt"})
            end = max(offsets[key] + 2 * math.prod(shape) for key, shape in shapes.items())
            with (folder / "adapter_model.safetensors").open("wb") as file:
                file.write(header)
                file.truncate(end)
        except OSError as error:
            raise OutputError(
                f"cannot check the adapter with PEFT, since temporary files cannot be written ({error.strerror})",
                "Free some space there, or set TMPDIR to a writable folder.",
            ) from error
        yield str(folder)
