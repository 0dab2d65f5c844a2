"""accelerate reads its configurations, and bash the script."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

_FOLDER = Path(__file__).parents[2] / "examples" / "accelerate"


@pytest.mark.parametrize(
    ("name", "engine", "machines", "processes"),
    [
        ("one_gpu", "NO", 1, 1),
        ("eight_gpus_fsdp2", "FSDP", 1, 8),
        ("zero3_offload", "DEEPSPEED", 1, 8),
        ("two_hosts", "FSDP", 2, 16),
    ],
)
def test_accelerate_reads_each_configuration(name, engine, machines, processes):
    config = load_config_from_file(str(_FOLDER / f"{name}.yaml"))  # unknown keys are errors
    assert (config.distributed_type, config.num_machines, config.num_processes) == (engine, machines, processes)
    assert config.mixed_precision == "no"
    assert (engine == "FSDP") == (config.fsdp_config.get("fsdp_version") == 2)
    assert (engine == "DEEPSPEED") == (config.deepspeed_config.get("zero_stage") == 3)


def test_bash_reads_the_script_and_every_file_is_described():
    subprocess.run(["bash", "-n", str(_FOLDER / "slurm.sh")], check=True)
    described = (_FOLDER / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in _FOLDER.iterdir() if f"`{path.name}`" not in described} == {"README.md"}
