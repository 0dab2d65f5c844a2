"""What `verify` found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from taskarith.checkpoints.digests import FolderChanges

__all__ = ["Verification"]


@dataclass(frozen=True)
class Verification:
    """What was checked, and what was found.

    :param path: The folder or file.
    :param kind: Of the record: edit, vector, lora, ...
    :param tensors: Tensors whose fingerprint was taken again.
    :param damaged: Those whose content is not what was recorded, or that are missing or new.
    :param sampled: Elements calculated again in float64 with other code than they were written with, rounded once.
    :param wrong: Tensors with an element that differs from that.
    :param unsampled: Why nothing, or not all, was calculated again; empty if all was.
    :param files: Files that are not as recorded; None for a vector, and where the record has no digests of them.
    :param is_record_changed: The record, or the header of a vector, is not as it was written.
    :param uncovered: What is not compared, since the record does not have what it takes.
    :param tolerance: Share of the largest change of a tensor by which a result may differ from what is calculated
        again before it is rounded; 0 if all bits must agree.
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

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        files_are_sound = self.files is None or self.files.are_harmless
        return files_are_sound and not (self.damaged or self.wrong or self.is_record_changed)
