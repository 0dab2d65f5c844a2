"""The result of `verify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from taskarith.checkpoints.digests import FolderChanges
from taskarith.tidy import Brief

__all__ = ["Verification"]


@dataclass(frozen=True, repr=False)
class Verification(Brief):
    """The result of a verification.

    :param path: The folder or file.
    :param kind: Kind of the record: edit, vector, lora, ...
    :param tensors: Number of tensors whose fingerprint was recomputed.
    :param damaged: Tensors that do not match the record, are missing or are new.
    :param sampled: Number of elements recomputed in float64 with independent code, rounded once.
    :param wrong: Tensors with an element that differs from its recomputed value.
    :param unsampled: Why not all elements could be recomputed; empty if there is no reason.
    :param files: Files that do not match the record; None for a vector, and if the record has no digests of files.
    :param is_record_changed: Whether the record, or the header of a vector, was changed after it was written.
    :param uncovered: What could not be compared, for lack of a record.
    :param tolerance: Share of a tensor's largest change by which results may differ from recomputed values before
        rounding; 0 if all bits must agree.
    """

    path: Path
    kind: str
    tensors: int = 0
    damaged: tuple[str, ...] = ()
    sampled: int = 0
    wrong: tuple[str, ...] = ()
    unsampled: str = ""
    files: FolderChanges | None = None
    is_record_changed: bool = False
    uncovered: tuple[str, ...] = ()
    tolerance: float = 0.0

    def _brief(self) -> dict[str, object]:
        names = ("is_sound", "path", "kind", "tensors", "sampled", "damaged", "wrong")
        return {name: value for name in names if (value := getattr(self, name)) != ()}

    @property
    def is_sound(self) -> bool:
        """Whether everything matches."""
        files_are_sound = self.files is None or self.files.are_harmless
        return files_are_sound and not (self.damaged or self.wrong or self.is_record_changed)
