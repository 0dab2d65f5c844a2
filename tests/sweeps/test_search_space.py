"""The coefficients of a search: of vectors, and of parts of the model."""

from __future__ import annotations

import pytest

from taskarith.edit.edit import Edit
from taskarith.errors import UsageError
from taskarith.spec import OperandRef
from taskarith.sweeps.search_space import Space, find_parts


def test_coefficients_of_vectors_and_of_parts():
    refs = (OperandRef("f", -2.0), OperandRef("r", 1.0), OperandRef("kept", 0.0, role="protect"))
    whole = Space(Edit(refs), ("*",), 0.0, 2.0)
    assert whole.names == ("1 f", "2 r")
    assert [one.coefficient for one in whole.edit_at([0.5, 0.1]).operands] == [-1.0, 0.1, 0.0]
    assert whole.start(0.7) == [0.7, 0.0]
    assert Space(Edit((OperandRef("r", 1.0),)), ("*",), 0.0, 2.0).start(0.7) == [0.7]
    parts = Space(Edit(refs), ("*", "m.0-1"), 0.0, 2.0)
    assert parts.names == ("1 f *", "1 f m.0-1", "2 r *", "2 r m.0-1")
    found = parts.edit_at([1.0, 0.5, 0.0, 0.25]).operands
    assert [(one.coefficient, one.scale) for one in found] == [
        (-2.0, {"*": (1.0,), "m.0-1": (0.5,)}),
        (1.0, {"*": (0.0,), "m.0-1": (0.25,)}),
        (0.0, {}),
    ]


def test_parts_of_a_model():
    kinds = ("attn.w", "mlp.w", "norm.w")
    shapes = {f"model.layers.{n}.{kind}": 2 - (kind == "norm.w") for n in range(7) for kind in kinds}
    shapes |= {"embed.w": 2, "lm_head.w": 2}
    assert find_parts(shapes, []) == ("*",)
    assert find_parts(shapes, ["layer"]) == ("*", "model.layers.0-1", "model.layers.2-3", "model.layers.4-6")
    assert find_parts(shapes, ["module"]) == ("*", "model.layers.*.attn", "model.layers.*.mlp")
    assert find_parts(shapes, ["module", "layer"])[:3] == ("*", "model.layers.0-1.attn", "model.layers.0-1.mlp")
    assert len(find_parts(shapes, ["module", "layer"])) == 7
    with pytest.raises(UsageError, match="layers of this model cannot be told apart"):
        find_parts({"embed.w": 2}, ["layer"])
    with pytest.raises(UsageError, match="head"):
        find_parts(shapes, ["head"])
