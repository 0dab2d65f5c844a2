"""`python -m benchmarks.gpu`: what a GPU does for taskarith, beside the CPU of the same machine.

Needs no network: models have random weights of true shapes, and stay in the work folder. Begins nothing more after 25
minutes. Writes benchmarks/RESULTS-gpu.md where there is a GPU;
elsewhere it shows the CPU's columns.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
import transformers

from benchmarks.gpu.bench import Bench, Device
from benchmarks.gpu.edits import edits, matrices
from benchmarks.gpu.evaluation import evaluation
from benchmarks.gpu.suite import suite
from benchmarks.gpu.training import training
from benchmarks.models import PHI_PARAMETERS
from benchmarks.results import bullets, machine
from benchmarks.robustness.sections import write_section

_HERE = Path(__file__).resolve().parent.parent
_PARTS: dict[str, tuple[str, Callable[[Bench], str]]] = {
    "suite": ("Tests that depend on a device", suite),
    "training": ("Fine-tuning", training),
    "evaluation": ("Evaluation", evaluation),
    "matrices": ("Merges that decompose matrices", matrices),
    "edits": ("Edits, element by element", edits),
}
_PEERS = ("bitsandbytes", "mergekit", "lm_eval")
_HEAD = """# Results of `python -m benchmarks.gpu`

What ran on which GPU. Each part says when and with what; a part that is run again replaces the one before."""


def main() -> int:
    """Run the parts, write each into the results where there is a GPU, and return 1 if a test failed."""
    options = _options()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    devices = [Device("cpu", "the CPU")]
    if torch.cuda.is_available():
        devices.append(Device("cuda", torch.cuda.get_device_name()))
    options.work_dir.mkdir(parents=True, exist_ok=True)
    need, free = 16 * options.parameters, shutil.disk_usage(options.work_dir).free
    print(f"needs {need / 1e9:.0f} GB in {options.work_dir}; there are {free / 1e9:.0f} GB", flush=True)
    if free < need:
        raise SystemExit("Not enough disk: name another folder with --work-dir, or make --parameters smaller.")
    kept = options.work_dir.resolve() / f"gpu-{options.parameters:.0f}"
    kept.mkdir(exist_ok=True)
    facts = _facts(devices)
    with tempfile.TemporaryDirectory(dir=options.work_dir.resolve(), prefix="gpu-") as work:
        bench = Bench(Path(work), kept, devices, options.parameters, time.monotonic() + 60 * options.minutes)
        for name in options.only:
            bench.left_out.clear()
            title, part = _PARTS[name]
            found = [bullets(facts), part(bench)]
            if bench.left_out:
                found += ["Left out:", bullets(bench.left_out)]
            text = "\n\n".join(found)
            print(f"## {title}\n\n{text}\n", flush=True)
            if bench.gpu:
                if not options.output.exists():
                    options.output.write_text(f"{_HEAD}\n", encoding="utf-8")
                write_section(options.output, title, text)
    return int(bench.has_failed)


def _facts(devices: list[Device]) -> list[str]:
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    gpu = "no GPU: the CPU alone"
    if len(devices) > 1:
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        gpu = f"one {devices[1].title}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
    peers = f"transformers {version('transformers')}, peft {version('peft')}, accelerate {version('accelerate')}"
    absent = [name for name in _PEERS if not importlib.util.find_spec(name)]
    lacking = [f"not installed: {', '.join(absent)}"] if absent else []
    return [f"{today}, {gpu}", *machine("")[:2], f"With {peers}", *lacking]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=25, help="after which nothing more is begun")
    parser.add_argument(
        "--parameters", type=float, default=PHI_PARAMETERS, help="of the model: 7e9 needs 112 GB of disk"
    )
    parser.add_argument("--work-dir", type=Path, default=_HERE / ".work", help="for models and outputs; needs the room")
    parser.add_argument("--output", type=Path, default=_HERE / "RESULTS-gpu.md", help="file of the report")
    about = f"{', '.join(_PARTS)}; all by default"
    parser.add_argument("--only", nargs="+", choices=list(_PARTS), default=list(_PARTS), metavar="PART", help=about)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
