"""Products by oneDNN: the same within rounding, only where they are faster, and only while it lasts."""

from __future__ import annotations

import pytest
import torch
from evaluating import tiny_model
from torch import nn

from taskarith.evaluation import linear
from taskarith.evaluation.linear import fast_products


@pytest.fixture
def slow_mkl(monkeypatch):
    if not all(hasattr(torch.ops.mkldnn, name) for name in linear._OPERATORS):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linear, "_has_slow_mkl", lambda: True)


@pytest.mark.parametrize("name", ["llama", "phi", "gpt2"])  # without bias, with it, and of no linear layers
def test_logits_are_the_same_within_rounding(name, slow_mkl):
    model, ids = tiny_model(name), torch.tensor([[5, 9, 2], [7, 7, 3]])
    with torch.inference_mode():
        before = model(ids).logits
        with fast_products(model, 32):
            during = model(ids).logits
        assert torch.equal(model(ids).logits, before)
    torch.testing.assert_close(during, before, rtol=1e-5, atol=1e-5)


def test_layers_are_put_back_after_an_error(slow_mkl):
    model = tiny_model("llama")

    def changed():
        return sum("forward" in vars(layer) for layer in model.modules())

    def fail():
        with fast_products(model, 32):
            assert changed() == 15
            raise ValueError("within")

    with pytest.raises(ValueError, match="within"):
        fail()
    assert changed() == 0


@pytest.mark.parametrize("bias", [False, True])
def test_weights_are_copied_for_many_steps_where_memory_is_plentiful_and_bits_stay(bias, slow_mkl, monkeypatch):
    model, room, ordered = nn.Sequential(nn.Linear(48, 80, bias=bias)), 48 * 80 * 4 * 4, []
    reorder = torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda w: ordered.append(w) or reorder(w))

    def products(free, steps):
        monkeypatch.setattr(linear, "available_memory", lambda _device: free)
        with fast_products(model, steps), torch.inference_mode():
            return [model(torch.linspace(-1, 2, rows * 48).reshape(1, rows, 48)) for rows in (2, 5, 64)]

    few = products(room - 1, linear._STEPS)
    products(room, linear._STEPS - 1)
    assert not ordered
    assert all(torch.equal(one, other) for one, other in zip(products(room, linear._STEPS), few, strict=True))
    assert len(ordered) == 1


@pytest.mark.parametrize("change", [lambda layer: layer.bfloat16(), lambda layer: layer.to("meta")])
def test_other_layers_stay_as_they_are(change, slow_mkl):
    model = nn.Sequential(change(nn.Linear(3, 2)), nn.Embedding(3, 2))
    with fast_products(model, 32):
        assert not any("forward" in vars(layer) for layer in model.modules())


def test_layers_that_another_library_hooked_stay_as_they_are(slow_mkl):
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].forward = lambda states: states
    with fast_products(model, 32):
        assert model(torch.ones(3)).tolist() == [1, 1, 1]
    assert model(torch.ones(3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("maker", "is_slow"), [("AuthenticAMD", True), ("GenuineIntel", False), (None, False)])
def test_processors_of_the_maker_of_mkl_keep_it(maker, is_slow, tmp_path, monkeypatch):
    monkeypatch.setattr(linear, "_CPUS", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    if maker:
        (tmp_path / "cpuinfo").write_text(f"vendor_id\t: {maker}\n")
    linear._has_slow_mkl.cache_clear()
    assert linear._has_slow_mkl() == is_slow
    linear._has_slow_mkl.cache_clear()
