"""How deltas are laid out for PEFT: names, shapes and the configuration."""

from __future__ import annotations

import pytest

from taskarith.architecture.layout import Architecture, Parameter
from taskarith.vectors.lora.layout import FolderLayout, factor_shapes, takes_factors

PARAMETERS = {
    "m.embed.weight": Parameter((10, 4), "embedding", False),
    "m.layers.0.q.weight": Parameter((6, 4), "linear", False),
    "m.layers.0.q.bias": Parameter((6,), "linear", False),
    "m.layers.0.c.weight": Parameter((4, 6), "linear", True),
    "m.layers.0.experts.up": Parameter((3, 6, 4), "other", False),
    "m.layers.0.experts.down": Parameter((3, 4, 6), "other", False),
    "m.layers.0.router.weight": Parameter((3, 4), "other", False),
    "m.norm.weight": Parameter((4,), "norm"),
    "v.q.weight": Parameter((6, 4), "linear", False),
}
ARCHITECTURE = Architecture("Model", "AutoModelForCausalLM", PARAMETERS, {})


def test_matrices_of_modules_and_experts_take_factors():
    wanted = {
        "m.embed.weight",
        "m.layers.0.q.weight",
        "m.layers.0.c.weight",
        "m.layers.0.experts.up",
        "m.layers.0.experts.down",
        "v.q.weight",
    }
    assert {name for name in PARAMETERS if takes_factors(ARCHITECTURE, name)} == wanted
    assert not takes_factors(ARCHITECTURE, "m.embed.weight", tied=["m.embed.weight"])


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("m.layers.0.q.weight", ((2, 4), (6, 2))),
        ("m.layers.0.c.weight", ((2, 4), (6, 2))),  # stored as in x out
        ("m.embed.weight", ((2, 10), (4, 2))),
        ("m.layers.0.experts.up", ((6, 4), (6, 6))),
    ],
)
def test_factors_are_a_and_b_as_peft_has_them(name, shapes):
    assert factor_shapes(ARCHITECTURE, name, 2) == shapes


def test_names_are_those_of_peft():
    experts = frozenset({"m.layers.0.experts.up", "m.layers.0.experts.down"})
    ranks = {"m.layers.0.q.weight": 2, "m.embed.weight": 3, **dict.fromkeys(experts, 2)}
    layout = FolderLayout(ARCHITECTURE, ranks, experts, {"m.norm": ("m.norm.weight",)}, ("m.layers.0.q.bias",))
    stem = "base_model.model.m.layers.0"
    assert layout.factor_names("m.layers.0.q.weight") == (f"{stem}.q.lora_A.weight", f"{stem}.q.lora_B.weight")
    assert layout.factor_names("m.embed.weight")[1] == "base_model.model.m.embed.lora_embedding_B"
    assert layout.factor_names("m.layers.0.experts.down")[0] == f"{stem}.experts.lora_A.weight"
    assert layout.factor_names("m.layers.0.experts.up")[0] == f"{stem}.experts.base_layer.lora_A.weight"
    assert dict(layout.whole_names())[f"{stem}.q.base_layer.bias"] == "m.layers.0.q.bias"
    assert layout.shapes()["base_model.model.m.norm.weight"] == (4,)


def test_a_module_is_named_by_its_last_part_where_that_means_no_other():
    layout = FolderLayout(ARCHITECTURE, {"m.layers.0.q.weight": 2, "m.layers.0.c.weight": 3})
    config = layout.config("org/m", "abc")
    assert config["target_modules"] == ["c", "m.layers.0.q"]  # v.q is another one
    assert (config["r"], config["rank_pattern"]) == (3, {r"m\.layers\.0\.q": 2})
    assert (config["base_model_name_or_path"], config["revision"], config["task_type"]) == ("org/m", "abc", "CAUSAL_LM")
    assert config["fan_in_fan_out"]
    assert not layout.only(["m.layers.0.q.weight"]).config("m", None)["fan_in_fan_out"]
