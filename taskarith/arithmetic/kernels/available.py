"""The compiled kernels, for those who can do without."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from taskarith.arithmetic.kernels.compile import Kernels

__all__ = ["address", "load_or_none"]


def address(values: np.ndarray) -> int:
    """Return where float64 elements are, one after the other: the kernels know nothing but that.

    :raises AssertionError: They are of another dtype, or lie apart.
    """
    if values.dtype != "float64" or not values.flags.c_contiguous:
        raise AssertionError("kernels of merge methods take float64, one after the other")
    return values.ctypes.data


_found: dict[str, Kernels | None] = {}


def load_or_none(group: str) -> Kernels | None:
    """Return a group of kernels; None as long as it is being compiled, or where there is no numba, or no LLVM."""
    if group in _found:
        return _found[group]
    _found[group] = None
    try:
        from taskarith.arithmetic.kernels.compile import NotYetError, load_kernels
    except ImportError:
        return None
    try:
        _found[group] = load_kernels(group, wait=False)
    except NotYetError:
        del _found[group]
        return None
    except (ImportError, RuntimeError):
        pass
    return _found[group]
