"""Coefficients by layer and kind of module: what a selector names, what a gradient is worth, and the edit itself."""

from __future__ import annotations

import json
from fractions import Fraction

import oracle
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from taskarith.edit.apply import apply
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.edit.scales import interpolate, layer_places, tensor_factors
from taskarith.errors import UsageError
from taskarith.inspection.verify import verify
from taskarith.spec import OperandRef, parse_scales, plain_scales

LAYERS = [f"model.layers.{n}.{kind}.weight" for n in range(12) for kind in ("mlp.up_proj", "self_attn.q_proj")]
NAMES = ["model.embed_tokens.weight", *LAYERS, "model.norm.weight", "lm_head.weight"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mlp=0.5", {"mlp": (0.5,)}),
        (" layers=0..1", {" layers": (0.0, 1.0)}),
        ("layers=[0, 0.5,1]", {"layers": (0.0, 0.5, 1.0)}),
        ("a=b=-2e-1", {"a=b": (-0.2,)}),
    ],
)
def test_parse_scales(text, expected):
    assert parse_scales([text]) == expected
    assert parse_scales(plain_scales(expected)) == expected


def test_the_last_of_equal_selectors_counts_and_stands_last():
    assert list(parse_scales(["a=1", "b=2", "a=3"]).items()) == [("b", (2.0,)), ("a", (3.0,))]
    assert parse_scales({"layers.0-11": "0..1", "mlp": 2, "norm": [1, "2e-1"]}) == {
        "layers.0-11": (0.0, 1.0),
        "mlp": (2.0,),
        "norm": (1.0, 0.2),
    }


@pytest.mark.parametrize(
    "given",
    [["mlp"], ["=1"], ["mlp="], ["mlp=one"], ["mlp=nan"], ["mlp=0..inf"], ["mlp=[]"], ["mlp=1...."], {"mlp": True}]
    + [{"mlp": value} for value in (None, [], {}, [1, None], float("nan"), 10**400, [[1]])],
)
def test_scales_that_cannot_be_read(given):
    with pytest.raises(UsageError, match="cannot read the scale"):
        parse_scales(given)


@pytest.mark.parametrize(
    ("selector", "count"),
    [
        ("mlp", 12),
        ("layers.*.mlp.*", 12),
        ("layers.1", 2),  # and not layers 10 and 11
        ("layers.1*", 6),
        ("layers.0-11", 24),
        ("layers.9-10.mlp", 2),
        ("model.layers.?.self_attn", 10),
        ("*_proj", 24),
        ("lm_head.weight", 1),
        ("lm_head", 1),
        ("*", 27),
        ("model.*.weight", 26),
    ],
)
def test_selectors(selector, count):
    assert len(tensor_factors(parse_scales([f"{selector}=2"]), NAMES)) == count


def test_a_whole_name_names_one_tensor_only():
    names = ["norm.weight", "vision.norm.weight"]
    assert tensor_factors({"norm.weight": (2.0,)}, names) == {"norm.weight": 2.0}
    assert len(tensor_factors({"norm": (2.0,)}, names)) == 2


@pytest.mark.parametrize(
    ("selector", "words", "hint"),
    [
        ("layer.0-3", "names no tensor", "layers"),
        ("mpl", "names no tensor", "mlp"),
        ("@@@@", "names no tensor", "model.embed_tokens.weight"),
        ("layers.12", "names no tensor", "layers"),
        ("layers.3-1", "empty or endless range 3-1", "layers.0-11"),
        ("layers.0-99999", "endless", "layers.0-11"),
        ("layers.0-1.experts.0-1", "two ranges", "one range"),
    ],
)
def test_selectors_that_name_nothing(selector, words, hint):
    with pytest.raises(UsageError, match=words) as caught:
        tensor_factors({selector: (1.0,)}, NAMES)
    assert hint in caught.value.hint


def test_a_gradient_needs_layers():
    with pytest.raises(UsageError, match=r"embed_tokens\.weight, model\.norm\.weight, lm_head\.weight is in none"):
        tensor_factors({"*": (0.0, 1.0)}, NAMES)


def test_gradients_by_hand():
    found = tensor_factors(parse_scales(["*=7", "layers=0..1", "layers.0-3.mlp=[0, 22, 11]"]), NAMES)
    assert found["lm_head.weight"] == 7
    assert found["model.layers.0.self_attn.q_proj.weight"] == 0
    assert found["model.layers.3.self_attn.q_proj.weight"] == 3 / 11
    assert found["model.layers.11.mlp.up_proj.weight"] == 1
    # over the depth of the model, whatever the selector names: layer 3 is at 6/11 of the way from 0 to 22
    assert found["model.layers.3.mlp.up_proj.weight"] == pytest.approx(12, rel=1e-15)
    assert interpolate([5.0, 9.0], 0, 1) == 9.0


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=5), st.integers(1, 40), st.data())
def test_a_gradient_is_piecewise_linear(values, layers, data):
    layer = data.draw(st.integers(0, layers - 1))
    at = Fraction(layer, layers - 1) * (len(values) - 1) if layers > 1 else Fraction(len(values) - 1)
    low = min(int(at), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    exact = values[low] + (at - low) * (values[high] - values[low])
    assert interpolate([float(v) for v in values], layer, layers) == pytest.approx(float(exact), abs=1e-13)


def test_layers_are_counted_by_stack_and_experts_are_none():
    places = layer_places(["h.0.a", "h.1.a", "vision.blocks.4.b", "x.layers.2.mlp.experts.7.w", "wte.weight"])
    assert places == {
        "h.0.a": (0, 2),
        "h.1.a": (1, 2),
        "vision.blocks.4.b": (4, 5),
        "x.layers.2.mlp.experts.7.w": (2, 3),
    }


def test_scaled_operands_equal_the_oracle_and_are_verified(tmp_path, phi, phi_tuned):
    other = tiny.save_model(tmp_path / "other", nudge_of=phi, seed=5)
    references = [
        OperandRef(str(phi_tuned), 0.75, {"*": (1.0,), "layers": (0.25, 3.0), "lm_head.bias": (0.0,)}),
        OperandRef(str(other), -0.5),
    ]
    result = apply(
        str(phi), operands=references, alpha=0.5, scale={"mlp": 0.25, "layers.1": 2}, output_dir=tmp_path / "out"
    )
    base, tuned, third = oracle.load(phi), oracle.load(phi_tuned), oracle.load(other)
    expected = {}
    for name, values in base.items():
        own = 0.25 if ".layers.0." in name else 3.0 if ".layers.1." in name else 0.0 if name == "lm_head.bias" else 1.0
        common = 2.0 if ".layers.1." in name else 0.25 if ".mlp." in name else 1.0
        deltas = [tuned[name].double() - values.double(), third[name].double() - values.double()]
        expected[name] = oracle.edit(values, deltas, [0.375 * own * common, -0.25 * common], values.dtype)
    assert oracle.differing(oracle.load(tmp_path / "out"), expected) == []
    assert result.actions == {"edited": 33}
    found = verify(tmp_path / "out")
    assert found.is_sound
    assert found.unsampled == ""
    record = json.loads((tmp_path / "out/taskarith.json").read_text())
    assert record["scale"] == {"mlp": 0.25, "layers.1": 2.0}
    assert record["operands"][0]["scale"] == {"*": 1.0, "layers": [0.25, 3.0], "lm_head.bias": 0.0}
    assert "scale" not in record["operands"][1]


def test_a_tied_head_goes_with_its_embedding(tmp_path):
    from safetensors.torch import load_file, save_file

    base = tiny.save_model(tmp_path / "base", "llama")
    tuned = tiny.save_model(tmp_path / "tuned", "llama", nudge_of=base, seed=1)
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    tuned = f"{tiny.forget_base(tuned)}@@{base}"
    apply(str(base), add=[tuned], scale=["embed_tokens=0.5"], output_dir=tmp_path / "out")
    edited = oracle.load(tmp_path / "out")
    assert edited["lm_head.weight"].equal(edited["model.embed_tokens.weight"])
    assert not edited["lm_head.weight"].equal(tensors["lm_head.weight"])
    with pytest.raises(
        UsageError, match=r"lm_head\.weight is tied to model\.embed_tokens\.weight and cannot be scaled otherwise"
    ):
        apply(str(base), add=[tuned], scale=["lm_head=0.5"], output_dir=tmp_path / "no")


def test_an_edit_in_memory_is_scaled_likewise(tmp_path, phi, phi_tuned):
    from transformers import AutoModelForCausalLM

    apply(str(phi), negate=[str(phi_tuned)], alpha=0.6, scale=["layers=0..1"], output_dir=tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(phi)
    with InMemoryEdit(model, str(phi), negate=[str(phi_tuned)], scale={"layers": [0, 1]}) as edit:
        edit.set(0.6)
        written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert oracle.differing(model.state_dict(), written.state_dict()) == []


def test_eval_scales_too(phi, phi_tuned, book):
    from taskarith.evaluation.evaluate import evaluate

    def losses(**scale):
        found = evaluate(
            [str(phi)], {"t": str(book)}, add=[str(phi_tuned)], alphas=[0, 1], prompts=0, block_size=32, **scale
        )
        return [found.scores.by_text[row]["t"]["loss"].value for row in found.scores.models]

    whole, nothing, half = losses(), losses(scale=["*=0"]), losses(scale=["layers=0.5"])
    assert nothing[0] == nothing[1] == whole[0] == half[0]
    assert len({whole[0], whole[1], half[1]}) == 3
    with pytest.raises(UsageError, match="a scale is given without a vector"):
        evaluate([str(phi)], {"t": str(book)}, scale=["*=0"])
