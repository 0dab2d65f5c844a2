"""What PEFT would not load of an adapter is known before it is written."""

from __future__ import annotations

import oracle
import pytest
import torch
from architectures import CONFIGURATIONS, architecture, auto_class, save
from peft import PeftModel

from taskarith import apply
from taskarith.vectors.low_rank import extract_low_rank


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_peft_restores_low_rank_folders_but_for_what_they_name(tmp_path, kind, recwarn):
    model, generator = save(kind, tmp_path / "base"), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() in (2, 3) and "conv" not in name:
                left = torch.randn(*weight.shape[:-1], 2, generator=generator)
                weight.add_(0.05 * left @ torch.randn(*weight.shape[:-2], 2, weight.shape[-1], generator=generator))
            else:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(tmp_path / "tuned")
    expected = model.state_dict()
    result = extract_low_rank(str(tmp_path / "base"), str(tmp_path / "tuned"), tmp_path / "folder", rank=4)
    base = auto_class(kind).from_pretrained(tmp_path / "base", dtype=torch.float32)
    found = PeftModel.from_pretrained(base, str(tmp_path / "folder")).merge_and_unload().state_dict()
    assert not [warning for warning in recwarn if "adapter keys" in str(warning.message)]
    named = {architecture(tmp_path / "base").parameter_of(name) for name in result.rest}
    lost = {name for name, tensor in expected.items() if not torch.allclose(found[name], tensor, atol=2e-4)}
    assert lost == named
    apply(str(tmp_path / "base"), add=[str(tmp_path / "folder")], output_dir=tmp_path / "out")
    back = oracle.load(tmp_path / "out")
    for name, tensor in oracle.load(tmp_path / "tuned").items():
        torch.testing.assert_close(back[name], tensor, rtol=1e-5, atol=1e-6)
