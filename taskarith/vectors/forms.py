"""Which form of task vector a user asks for."""

from __future__ import annotations

from taskarith.errors import UsageError
from taskarith.vectors.exact import Exact
from taskarith.vectors.pack import Form

__all__ = ["choose_form"]


def choose_form(*, dtype: str, exact: bool) -> Form | None:
    """Return the packed form of the options of ``extract``; None for a dense vector."""
    if not exact:
        return None
    if dtype != "float32":
        raise UsageError("--exact has no --dtype: it stores bits", "Leave out --dtype.")
    return Exact()
