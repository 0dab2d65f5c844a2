"""Where to calculate and in which precision."""

from __future__ import annotations

import pytest
import torch

from taskarith.errors import UsageError
from taskarith.models.device import autocast_choice, choose_device, training_device

pytestmark = pytest.mark.usefixtures("one_thread")


def test_precision_follows_the_device(monkeypatch):
    cpu = torch.device("cpu")
    for has, good, why in (
        ({"amx_bf16": True}, True, "AMX"),
        ({"avx512_bf16": True}, True, "AVX512-BF16"),
        ({"avx2": True}, False, "neither AMX nor AVX512-BF16"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has, raising=False)
        choice, reason = autocast_choice(cpu, None)
        assert choice is good
        assert why in reason
    assert autocast_choice(torch.device("mps"), None)[0] is False
    assert autocast_choice(cpu, True) == (True, "as asked for")
    for name in ("gpu", "cuda:x", "cpu:1", "mps:0", ""):
        with pytest.raises(UsageError, match="unknown device"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="has 2 CUDA devices"):
        choose_device("cuda:2")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert choose_device("auto") == cpu


def test_more_processes_than_gpus_do_not_train_together(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for started in (None, "1", "2"):
        if started:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", started)
        assert training_device("cuda") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert training_device("cpu") == torch.device("cpu")
    with pytest.raises(
        UsageError, match="4 processes were started to train together, and this machine has 2"
    ) as caught:
        training_device("cuda")
    assert "--num_processes 2; --gradient-accumulation-steps 2" in caught.value.hint
