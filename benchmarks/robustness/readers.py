"""Every way in which files of strangers come into taskarith, each with its sound files and how they are damaged."""

from __future__ import annotations

from benchmarks.robustness.read_data import DATA
from benchmarks.robustness.read_edits import EDITS
from benchmarks.robustness.read_models import MODELS
from benchmarks.robustness.read_vectors import VECTORS
from benchmarks.robustness.resumed import RESUMED
from benchmarks.robustness.runner import Reader

__all__ = ["READERS"]

READERS: dict[str, Reader] = {reader.name: reader for reader in (*MODELS, *VECTORS, *EDITS, *DATA, *RESUMED)}
