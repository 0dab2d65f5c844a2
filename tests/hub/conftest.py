"""A hub of this process, a user who is logged in, and outputs to publish."""

from __future__ import annotations

import pytest
from fake_hub import fake_hub

from taskarith.edit.apply import apply
from taskarith.vectors.extract import extract


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A fake hub that huggingface_hub talks to, with ``ann`` logged in and an empty cache."""
    with fake_hub() as found:
        for name, value in {
            "ENDPOINT": found.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{found.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_STORED_TOKENS_PATH": str(tmp_path / "tokens"),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_TOKEN", "hf_ann")
        yield found


@pytest.fixture
def vector(tmp_path, phi, phi_tuned):
    extract(str(phi), str(phi_tuned), tmp_path / "forget.safetensors")
    return tmp_path / "forget.safetensors"


@pytest.fixture
def edited(tmp_path, phi, vector):
    return apply(str(phi), negate=[f"{vector}:0.5"], output_dir=tmp_path / "edited").path
