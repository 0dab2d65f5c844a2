"""Settings of a training: their values, and the schedules."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from taskarith.errors import UsageError
from taskarith.training.finetune import finetune
from taskarith.training.settings import SCHEDULERS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_schedule_needs_no_more_arguments():
    for name in SCHEDULERS:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=3)
        assert optimizer.param_groups[0]["lr"] in {0.0, 1.0}, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "--learning-rate is 0.0"),
        ({"learning_rate": -1e-3}, "--learning-rate is -0.001"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"num_train_epochs": 0}, "--num-train-epochs is 0"),
        ({"max_steps": 0}, "--max-steps is 0"),
        ({"until_loss": 0.0}, "--until-loss is 0.0"),
        ({"until_loss": float("inf")}, "--until-loss is inf"),
        ({"block_size": 1}, "--block-size is 1"),
        ({"per_device_train_batch_size": 0}, "--per-device-train-batch-size is 0"),
        ({"gradient_accumulation_steps": 0}, "--gradient-accumulation-steps is 0"),
        ({"warmup_steps": 1.5}, "--warmup-steps is 1.5"),
        ({"lora": True, "lora_rank": 0}, "--lora-rank is 0"),
        ({"lora": True, "lora_alpha": -1.0}, "--lora-alpha is -1.0"),
        ({"lora_target": ["q_proj"]}, "without --lora"),
        ({"lora_rank": 8}, "without --lora"),
        ({"retain_weight": 0.5}, "there is no retain set"),
        ({"retain": ["x"], "retain_weight": -0.5}, "--retain-weight is -0.5"),
        ({"lr_scheduler_type": "steep"}, "unknown --lr-scheduler-type 'steep'"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"save_steps": 0}, "--save-steps is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"report_to": ["nowhere"]}, "--report-to nowhere is not available"),
        ({"objective": "NPOO"}, "unknown --objective 'NPOO'\nDid you mean npo?"),
        ({"objective": "graddif"}, "Did you mean graddiff?"),
        ({"objective": "xyz"}, "unknown --objective 'xyz'\nChoose one of learn, ascent"),
        *(({"objective": name}, f"--objective {name} needs a retain set") for name in ("graddiff", "kl", "rmu")),
        ({"objective": "ascent", "retain": ["x"]}, "--objective ascent does not use a retain set"),
        *(({"objective": name, "beta": 1.0}, "--beta is set, but") for name in ("learn", "ascent", "graddiff", "rmu")),
        *(({"objective": "npo", "beta": beta}, f"--beta is {beta}") for beta in (0.0, -1.0, float("nan"))),
        ({"objective": "npo", "until_loss": 1.0}, "--until-loss is set, but with --objective npo"),
        ({"objective": "npo", "retain_weight": 2.0}, "there is no retain set"),
        ({"objective": "kl", "rmu_layer": 1}, "--rmu-layer is set, but not --objective rmu"),
        ({"stride": 0}, "--stride is 0"),
        ({"stride": -4}, "--stride is -4"),
        ({"stride": 2.5}, "--stride is 2.5"),
        ({"objective": "npo", "packing": True}, "--packing is set, but --objective npo makes its batches of pairs"),
        ({"objective": "ascent", "group_by_length": True}, "--group-by-length is set, but --objective ascent"),
        ({"rmu_steering": 1.0}, "--rmu-steering is set, but not --objective rmu"),
        ({"objective": "rmu", "retain": ["x"], "rmu_layer": -1}, "--rmu-layer is -1"),
        ({"objective": "rmu", "retain": ["x"], "rmu_steering": 0.0}, "--rmu-steering is 0.0"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_loaded(tmp_path, options, message):
    with pytest.raises(UsageError, match=message) as raised:
        finetune("no/such/model", ["no-such.txt"], tmp_path / "out", **options)
    assert raised.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []
