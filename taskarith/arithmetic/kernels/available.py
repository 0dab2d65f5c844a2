"""The compiled kernels, for those who can do without."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskarith.arithmetic.kernels.compile import Kernels

__all__ = ["load_or_none"]


_found: list[Kernels | None] = []


def load_or_none() -> Kernels | None:
    """Return the kernels; None as long as they are being compiled, or where there is no numba, or no LLVM."""
    if _found:
        return _found[0]
    try:
        from taskarith.arithmetic.kernels.compile import NotYetError, load_kernels
    except ImportError:
        _found.append(None)
        return None
    try:
        _found.append(load_kernels(wait=False))
    except NotYetError:
        return None
    except (ImportError, RuntimeError):
        _found.append(None)
    return _found[0]
