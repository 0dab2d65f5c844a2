"""The compiled kernels, for those who can do without."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskarith.arithmetic.kernels.compile import Kernels

__all__ = ["load_or_none"]


@cache
def load_or_none() -> Kernels | None:
    """Return the kernels, compiled first where need be; None where there is no numba, or no LLVM for this machine."""
    try:
        from taskarith.arithmetic.kernels.compile import load_kernels

        return load_kernels()
    except (ImportError, RuntimeError):
        return None
