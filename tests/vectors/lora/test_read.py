"""What an adapter folder holds, by module; what is not plain LoRA is refused."""

from __future__ import annotations

import pytest
import tiny
import torch
from adapters import change_config, save_adapter
from safetensors.torch import load_file, save_file

from taskarith.edit.apply import apply
from taskarith.errors import MismatchError, VectorError


@pytest.mark.usefixtures("no_warnings_of_peft")
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank_pattern": {"fc3": 4}}, r"pattern 'fc3' in rank_pattern .* fits no module"),
        ({"alpha_pattern": {r"model\.layers\.7\..*": 4}}, r"pattern 'model.* in alpha_pattern .* fits no module"),
        ({"init_lora_weights": "pissa_niter_4"}, "initialised with pissa_niter_4, which changes the base"),
        ({"layer_replication": [[0, 2]]}, "layers that are repeated"),
        ({"lora_B_layout": "expert_major"}, "packs the factors of experts in another way than PEFT"),
        ({"modules_to_save": ["lm_head"]}, "names 'lm_head' in modules_to_save, but holds no tensor of it"),
        ({"lora_bias": True}, "says lora_bias, but model.layers.0.mlp.fc1 has none"),
        ({"use_dora": True}, "says DoRA, but model.layers.0.mlp.fc1 has no magnitude"),
        ({"peft_type": "LOKR"}, "LOKR"),
        ({"use_dora": True}, "DoRA"),
        ({"r": 5}, "says rank 5"),
        ({"lora_alpha": None}, "alpha None"),
        ({"lora_alpha": float("inf")}, "alpha inf"),
        ({"rank_pattern": {"(": 4}}, "not a regular expression"),
    ],
)
def test_configurations_that_no_plain_lora_has_are_refused(tmp_path, values, words):
    base = tiny.save_model(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["fc1"])
    change_config(adapter, **values)
    with pytest.raises(VectorError, match=words):
        apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_broken_factors_are_refused(tmp_path):
    base = tiny.save_model(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["fc1"])
    weights = adapter / "adapter_model.safetensors"
    good = load_file(weights)
    stem = "base_model.model.model.layers.0.mlp.fc1.lora_"

    def refused(error, words, **changes):
        tensors = {name: tensor for name, tensor in good.items() if name not in changes.get("drop", ())}
        save_file(tensors | changes.get("put", {}), weights)
        with pytest.raises(error, match=words):
            apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")

    refused(VectorError, r"lora_A\.weight \(alone\)", drop=[f"{stem}B.weight"])
    refused(VectorError, "not LoRA factors", put={f"{stem}A.weight": torch.zeros(4, 32, 1, 1)})
    kernel = {f"{stem}A.weight": torch.zeros(4, 32, 3, 3), f"{stem}B.weight": torch.zeros(64, 4, 1, 1)}
    refused(VectorError, "are the factors of a convolution", put=kernel)
    head = {"base_model.model.lm_head.weight": torch.zeros(2, 2)}
    refused(MismatchError, r"another shape in .*: lm_head\.weight \[2, 2\] against \[384, 32\]", put=head)
    refused(VectorError, "differ in rank", put={f"{stem}B.weight": torch.zeros(64, 3)})
    refused(VectorError, "not finite", put={f"{stem}A.weight": torch.full((4, 32), torch.nan)})
    refused(MismatchError, r"fc1\.weight \[63, 32\] against \[64, 32\]", put={f"{stem}B.weight": torch.zeros(63, 4)})
    ghost = {f"base_model.model.ghost.lora_{x}.weight": torch.zeros(s) for x, s in (("A", (4, 32)), ("B", (64, 4)))}
    refused(MismatchError, "1 targets of adapter .* are not in .*: ghost", put=ghost)
    weights.unlink()
    (adapter / "adapter_model.bin").touch()
    with pytest.raises(VectorError, match="pickled"):
        apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")


def test_an_adapter_without_tensors_is_refused(tmp_path):
    base = tiny.save_model(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    save_file({}, adapter / "adapter_model.safetensors")
    with pytest.raises(VectorError, match="does not hold any tensor"):
        apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
