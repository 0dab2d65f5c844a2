"""accelerate's engines for GPUs on CPUs, where it would take DDP without a word."""

from __future__ import annotations

import os

from accelerate import state
from accelerate.utils import DistributedType

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}
"""What ``accelerate launch`` sets for FSDP2."""


def allow_on_cpus() -> None:
    """Let accelerate use FSDP and DeepSpeed with gloo."""
    of_processes, of_engine = state.PartialState.__init__, state.AcceleratorState.__init__

    def make_processes(self, *arguments, **options):
        of_processes(self, *arguments, **options)
        if "ACCELERATE_USE_FSDP" in os.environ and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU  # replaced by FSDP

    def make_engine(self, mixed_precision=None, cpu=False, *arguments, **options):
        is_cpu = cpu and "ACCELERATE_USE_DEEPSPEED" not in os.environ
        of_engine(self, mixed_precision, is_cpu, *arguments, **options)

    state.PartialState.__init__, state.AcceleratorState.__init__ = make_processes, make_engine
