"""Recipes written by hand: the same as the call, and as a configuration of options."""

from __future__ import annotations

import oracle
from recipes import run, write

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.edit.apply import apply
from taskarith.spec import OperandRef


def test_a_recipe_is_the_same_as_the_call(tmp_path, phi, phi_tuned, other):
    config = write(
        tmp_path / "recipe.yaml",
        {
            "model": str(phi),
            "operands": [
                {"vector": str(phi_tuned), "coefficient": -0.6, "scale": {"layers": [0, 1], "mlp": 0.5}},
                f"{other}:0.2",
                {"vector": str(other), "coefficient": "5e-1", "scale": ["layers.0=0..1"]},
            ],
            "alpha": 0.5,
            "scale": {"lm_head": 0},
            "dtype": "bfloat16",
            "output_dir": str(tmp_path / "out"),
            "method": "linear",
        },
    )
    done = run("--config", config)
    assert done.exit_code == 0, done.output
    references = [
        OperandRef(str(phi_tuned), -0.6, {"layers": (0.0, 1.0), "mlp": (0.5,)}),
        OperandRef(str(other), 0.2),
        OperandRef(str(other), 0.5, {"layers.0": (0.0, 1.0)}),
    ]
    again = apply(
        str(phi), operands=references, alpha=0.5, scale=["lm_head=0"], dtype="bfloat16", output_dir=tmp_path / "again"
    )
    assert fingerprint_model(tmp_path / "out") == again.fingerprint
    base = oracle.load(phi)
    name = "model.layers.1.self_attn.q_proj.weight"
    deltas = [oracle.load(one)[name].double() - base[name].double() for one in (phi_tuned, other, other)]
    expected = oracle.edit(base[name], deltas, [-0.6 * 0.5, 0.2 * 0.5, 0.5 * 0.5], oracle.torch.bfloat16)
    assert oracle.load(tmp_path / "out")[name].equal(expected)
