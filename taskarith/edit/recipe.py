"""A recipe as read: values of the options of ``apply``, and operands with scales of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskarith.errors import UsageError
from taskarith.merging.methods import PARAMETERS, parse_method
from taskarith.spec import OperandRef, parse_scales

if TYPE_CHECKING:
    from taskarith.edit.edit import Edit

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """What a recipe says.

    :param options: Values of the options of ``apply``, by name.
    :param operands: The vectors, each with a scale of its own.
    :param fingerprint: What the model must have; empty if that does not matter.
    :param remarks: What the user should know about how it was read.
    :param path: The file that it was read from, where it was one.
    """

    options: Mapping[str, Any]
    operands: tuple[OperandRef, ...] = ()
    fingerprint: str = ""
    remarks: tuple[str, ...] = field(default=())
    path: Path | None = None

    def edit(self) -> Edit:
        """Return the edit of it that can be made in memory, of any model and at any alpha.

        :raises UsageError: It asks for what is not done in memory, or a value cannot be read.
        """
        from taskarith.edit.edit import Edit  # late: the command line knows recipes before it calculates

        options = self.options
        for key, what in (("vocab", "vocabularies are not adapted"), ("tokenizer", "tokenizers are not replaced")):
            if options.get(key):
                raise UsageError(f"{what} in memory", "Write the edit with apply, and evaluate that.")
        parameters = {key: options[key] for key in PARAMETERS if key in options}
        return Edit.from_options(
            self.listed("add"),
            self.listed("negate"),
            self.operands,
            protect=self.listed("protect"),
            weights=options.get("weights"),
            scale=options.get("scale", ()),
            method=parse_method(str(options.get("method", "linear")), **parameters),
        )

    def listed(self, option: str) -> list[str]:
        """Return the values of an option that may be given several times."""
        value = self.options.get(option)
        return [] if value is None else [str(value)] if isinstance(value, str) else [str(one) for one in value]

    def changed(self, model: str | None, *, vectors: bool, alpha: float, scale: Sequence[str]) -> Recipe:
        """Return what is left of it beside values of options, some of which may be others than its own.

        :param model: Another model than that of the recipe may have any fingerprint.
        :param vectors: Whether vectors are named by options; they replace its own.
        :param alpha: If 0, no vector is read.
        :param scale: If another, other tensors of the vectors may be read.
        """
        changed = self
        if model != self.options.get("model"):
            changed = replace(changed, fingerprint="")
        if vectors and self.operands:
            remark = f"the {len(self.operands)} vectors of the recipe give way to those of the options"
            changed = replace(changed, operands=(), remarks=(*changed.remarks, remark))
        if alpha == 0 or parse_scales(scale) != parse_scales(self.options.get("scale", ())):
            changed = replace(changed, operands=tuple(replace(one, fingerprint="") for one in changed.operands))
        return changed
