"""No command looks at all tensors for each of them: with more tensors, lines of its code run as many times more.

Lines are counted, not seconds, so that the test is the same on every machine. It does not see loops of libraries.
"""

from __future__ import annotations

from line_counts import SLACK, lines_run

from benchmarks.many import write
from taskarith.arithmetic.kernels.compile import GROUPS, load_kernels
from taskarith.checkpoints import checkpoint

FEW, MANY = 16, 128  # experts
COMMANDS = [
    "extract base tuned -o v.safetensors",
    "extract base tuned --exact -o exact.safetensors",
    "extract base tuned --top-k 0.2 -o sparse.safetensors",
    "extract base tuned --rank 1 -o adapter",
    "extract base tuned --rank 1 -o other --dry-run",
    "apply base --negate v.safetensors --keep-undo -o edited",
    "apply base --negate exact.safetensors --scale layers=0..1 -o scaled",
    "apply base --negate sparse.safetensors -o sparser",
    "apply base --negate adapter -o folded",
    "apply base --add tuned@@base --add v.safetensors:0.5 --method ties --density 0.2 -o merged",
    "apply base --negate v.safetensors -o planned --dry-run",
    "combine v.safetensors:0.5 + exact.safetensors -o sum.safetensors",
    "verify edited",
    "verify folded",
    "verify exact.safetensors",
    "undo edited -o undone",
    "diff base tuned",
    "inspect v.safetensors",
    "inspect adapter",
    "relate v.safetensors tuned@@base",
    "relate exact.safetensors adapter",
]


def test_lines_grow_as_tensors_do(tmp_path, monkeypatch):
    for group in GROUPS:
        load_kernels(group)
    found = {}
    for experts in (FEW, MANY):
        folder = tmp_path / str(experts)
        tensors = write(folder, 2, experts)
        monkeypatch.chdir(folder)
        for command in COMMANDS:
            for again in ("", " --overwrite") if " -o " in command else ("",):
                checkpoint._fingerprints.clear()
                found[command + again, experts] = lines_run((command + again).split()) / tensors
    grown = {command: found[command, MANY] / share for (command, experts), share in found.items() if experts == FEW}
    assert {command: growth for command, growth in grown.items() if growth > SLACK} == {}
