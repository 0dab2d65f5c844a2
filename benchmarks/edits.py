"""What is measured: the edits, as values that every contender and the oracle understand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import ADAPTER_WEIGHTS, WEIGHTS

__all__ = ["EDITS", "Edit", "make_edit", "weights"]

EDITS = {
    "apply": "apply, two fine-tuned folders (0.3 and -0.7)",
    "negate": "negate, one fine-tuned folder (-0.7)",
    "extract": "extract to float32",
    "vectors": "apply, two stored float32 vectors (0.3 and -0.7)",
    "stored": "apply, one stored vector (0.7)",
    "stored-whole": "apply, one stored vector (1)",
    "lora": "apply, one LoRA of rank 16 on every linear layer",
    "ties": "TIES of two fine-tuned folders, density 0.2",
    "dare": "DARE of two fine-tuned folders, density 0.1",
    "rank": "extract at rank 16, of a model with one layer of 24 and 2048 tokens",
    "whole-rank": "extract at rank 16, of the whole model",
}
"""Names and titles of the edits."""


@dataclass(frozen=True)
class Edit:
    """One edit.

    :param name: Key in ``EDITS``.
    :param kind: ``edit`` (base + sum of c (operand - base)), ``stored`` (likewise, of a file), ``vectors`` (base + sum
        of c operand), ``extract``, ``exact``, ``lora`` (base + c B A), ``ties``, ``dare`` or ``rank``.
    :param base: Model folder.
    :param operands: Model folders, folders with a stored vector each, or an adapter folder.
    :param coefficients: One an operand.
    :param files: The operand's vector in float32, and in the exact form.
    """

    name: str
    kind: str
    base: Path
    operands: tuple[Path, ...]
    coefficients: tuple[float, ...]
    files: tuple[Path, ...] = ()

    @property
    def inputs(self) -> list[Path]:
        """Return all files that are read."""
        operands = self.files[:1] or [weights(folder) for folder in self.operands]
        return [weights(self.base), *operands]

    @property
    def has_oracle(self) -> bool:
        """Return whether there is one right result."""
        return self.kind in {"edit", "stored", "vectors", "extract", "lora"}

    @property
    def output_bytes(self) -> int:
        """Return about how many bytes are written."""
        return weights(self.base).stat().st_size * (2 if self.kind == "extract" else 1)


def make_edit(name: str, models: Sequence[Path], others: Sequence[Path]) -> Edit:
    """Return an edit by its name.

    :param name: Key in ``EDITS``.
    :param models: The base and two fine-tunes.
    :param others: Folders of two stored vectors, two files of one vector, or one adapter folder.
    """
    base, first, second = models
    if name == "apply":
        return Edit(name, "edit", base, (first, second), (0.3, -0.7))
    if name == "negate":
        return Edit(name, "edit", base, (first,), (-0.7,))
    if name == "extract":
        return Edit(name, "extract", base, (first,), (1.0,))
    if name in {"stored", "stored-whole"}:
        return Edit(name, "stored", base, (first,), (0.7 if name == "stored" else 1.0,), tuple(others))
    if name in {"ties", "dare"}:
        return Edit(name, name, base, (first, second), (0.5, 0.5))
    if name in {"rank", "whole-rank"}:
        return Edit(name, "rank", base, (first,), (1.0,))
    return Edit(name, name, base, tuple(others), (1.0,) if name == "lora" else (0.3, -0.7))


def weights(folder: Path) -> Path:
    """Return the one weights file of a model, vector or adapter folder."""
    adapter = folder / ADAPTER_WEIGHTS
    return adapter if adapter.exists() else folder / WEIGHTS
