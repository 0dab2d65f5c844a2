"""Which form of task vector a user asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskarith.errors import UsageError

if TYPE_CHECKING:
    from taskarith.vectors.codecs.write import Form

__all__ = ["choose_form"]


def choose_form(
    *,
    dtype: str,
    exact: bool = False,
    top_k: float | None = None,
    top_k_per: str = "global",
    rows: float | None = None,
    bits: int | None = None,
) -> Form | None:
    """Return the packed form that the options of ``extract`` ask for; None for a dense vector.

    :param dtype: Of the values, as safetensors names it.
    :raises UsageError: Two forms at once, or a value that cannot be.
    """
    asked = {"--exact": exact, "--top-k": top_k is not None, "--rows": rows is not None, "--bits": bits is not None}
    chosen = [name for name, is_asked in asked.items() if is_asked]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} are different forms of a vector", "Choose one of them.")
    if dtype != "F32" and (exact or bits is not None):
        raise UsageError(f"{chosen[0]} takes no --dtype: it decides itself what is stored", "Leave out --dtype.")
    for name, share in (("--top-k", top_k), ("--rows", rows)):
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"{name} is {share}", f"Give the share to keep, above 0 and at most 1, as in {name} 0.05")
    if top_k_per not in {"global", "tensor"} or (top_k_per == "tensor" and top_k is None):
        raise UsageError(f"--top-k-per {top_k_per} cannot be", "Give global or tensor, with --top-k.")
    return _form(dtype, exact, top_k, top_k_per, rows, bits)


def _form(
    dtype: str, exact: bool, top_k: float | None, top_k_per: str, rows: float | None, bits: int | None
) -> Form | None:
    if exact:
        from taskarith.vectors.codecs.exact import Exact

        return Exact()
    if bits is not None:
        from taskarith.vectors.codecs.quantised import BITS, Quantised

        if bits not in BITS:
            raise UsageError(f"--bits is {bits}", f"Choose one of {', '.join(map(str, BITS))}.")
        return Quantised(bits)
    if top_k is None and rows is None:
        return None
    from taskarith.vectors.codecs.sparse import Sparse
    from taskarith.vectors.codecs.top_k import LargestEntries, LargestRows

    if top_k is not None:
        return Sparse(LargestEntries(top_k, top_k_per == "tensor"), dtype, {"top_k": top_k, "per": top_k_per})
    return Sparse(LargestRows(rows or 0.0), dtype, {"rows": rows})
