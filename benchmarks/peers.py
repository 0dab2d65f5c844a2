"""The contenders: for each edit the command that each of them is given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.edits import Edit, weights
from benchmarks.models import RANK

__all__ = [
    "BEFORE",
    "CONTENDERS",
    "COPY",
    "EXACT",
    "MERGEKIT",
    "OURS",
    "command",
    "install_mergekit",
    "mergekit_versions",
]

OURS, BEFORE, EXACT = "taskarith", "taskarith, before", "taskarith, exact vector"
MERGEKIT, MERGEKIT_DEFAULT = "mergekit, float32", "mergekit, default"
TORCH, PEFT, COPY = "torch, all in memory", "PEFT, merge and save", "plain copy"
CONTENDERS = (OURS, BEFORE, EXACT, MERGEKIT, MERGEKIT_DEFAULT, TORCH, PEFT, COPY)

_HERE = Path(__file__).resolve().parent
_VERSION = "mergekit==0.1.5"
_METHODS = {"ties": ("ties", 0.2), "dare": ("dare_linear", 0.1)}


def install_mergekit() -> str:
    """Install mergekit in an environment of its own, once, and return its interpreter.

    :raises subprocess.CalledProcessError: It cannot be installed.
    """
    room = _HERE / ".peers"
    python, done = room / "bin" / "python", room / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(room)], check=True)
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        pip += ["--constraint", str(_HERE.parent / "constraints.txt")]
        for package in ("torch", _VERSION):  # torch first, alone and pinned, as in the Makefile
            subprocess.run([*pip, package], check=True)
        done.touch()
    return str(python)


def mergekit_versions(python: str) -> str:
    """Return the versions that mergekit runs with."""
    code = "from importlib.metadata import version as v; print('mergekit', v('mergekit') + ', torch', v('torch'))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def command(contender: str, edit: Edit, output: Path, mergekit_python: str) -> list[str] | None:
    """Return the command by which a contender carries out an edit into the folder ``output``; None if it cannot.

    :param contender: Its name.
    :param edit: What to calculate.
    :param output: Folder of the result.
    :param mergekit_python: Interpreter that has mergekit.
    """
    if contender in {OURS, BEFORE}:
        return _ours(edit, output, names_base=contender == OURS)
    if contender == EXACT:
        return _ours(edit, output, 1) if edit.kind == "stored" else None
    if contender == PEFT:
        script = [sys.executable, str(_HERE / "peft_merge.py")]
        return [*script, str(edit.base), str(edit.operands[0]), str(output)] if edit.kind == "lora" else None
    if contender == TORCH:
        if edit.kind not in {"edit", "vectors", "extract"}:
            return None
        operands = [f"{weights(o)}:{c}" for o, c in zip(edit.operands, edit.coefficients, strict=True)]
        script = [sys.executable, str(_HERE / "naive_torch.py")]
        return [*script, edit.kind, str(weights(output)), str(weights(edit.base)), *operands]
    if contender == COPY:
        script = [sys.executable, str(_HERE / "plain_copy.py"), "copy"]
        return [*script, str(weights(output)), str(edit.output_bytes), *map(str, edit.inputs)]
    if edit.kind == "rank":
        line = [mergekit_python, "-m", "mergekit.scripts.extract_lora", "--model", str(edit.operands[0])]
        line += ["--base-model", str(edit.base), "--out-path", str(output), "--max-rank", str(RANK)]
        line += ["--embed-lora"]  # by default it saves the embedding and the head whole
        return line if contender == MERGEKIT else None
    config = _mergekit_config(edit, is_float32=contender == MERGEKIT)
    if config is None:
        return None
    path = output.with_suffix(".json")
    path.write_text(json.dumps(config), encoding="utf-8")
    cache = ["--lora-merge-cache", str(output.with_suffix(".cache"))] if edit.kind == "lora" else []
    return [mergekit_python, "-m", "mergekit.scripts.run_yaml", str(path), str(output), *cache]


def _ours(edit: Edit, output: Path, form: int = 0, *, names_base: bool = True) -> list[str]:
    """Return our command; the first release took the model for the base of fine-tunes, and knew no other name."""
    program = [sys.executable, "-P", "-m", "taskarith"]  # of PYTHONPATH, not of this folder
    if edit.kind in {"extract", "exact"}:
        line = [*program, "extract", str(edit.base), str(edit.operands[0]), "-o", str(weights(output)), "--quiet"]
        return [*line, "--exact"] if edit.kind == "exact" else line
    if edit.kind == "rank":
        rank = ["--rank", str(RANK), "--quiet"]
        return [*program, "extract", str(edit.base), str(edit.operands[0]), "-o", str(output), *rank]
    signs = ["--negate" if coefficient < 0 else "--add" for coefficient in edit.coefficients]
    names: list[Path | str] = [weights(operand) if edit.kind == "vectors" else operand for operand in edit.operands]
    if names_base and edit.kind in {"edit", *_METHODS}:
        names = [f"{operand}@@{edit.base}" for operand in edit.operands]
    if edit.kind == "stored":
        names = [edit.files[form]]
    operands: list[str] = []
    for sign, name, coefficient in zip(signs, names, edit.coefficients, strict=True):
        operands += [sign, f"{name}:{abs(coefficient)}"]
    method = _METHODS.get(edit.kind)
    options = ["--method", method[0], "--density", str(method[1])] if method else []
    return [*program, "apply", str(edit.base), *operands, *options, "-o", str(output), "--quiet"]


def _mergekit_config(edit: Edit, *, is_float32: bool) -> dict[str, object] | None:
    """Say an edit in mergekit's words: a difference, or a sum with stored vectors, is its unnormalised linear merge."""
    if edit.kind == "edit":
        precision = {"dtype": "float32", "out_dtype": "bfloat16"} if is_float32 else {}
        models = _weighted(edit.operands, edit.coefficients)
        return {"merge_method": "task_arithmetic", "base_model": str(edit.base), "models": models, **precision}
    if edit.kind == "lora":
        precision = {"dtype": "float32", "out_dtype": "bfloat16"} if is_float32 else {}
        models = _weighted([Path(f"{edit.base}+{edit.operands[0]}")], edit.coefficients)
        return {"merge_method": "task_arithmetic", "base_model": str(edit.base), "models": models, **precision}
    if edit.kind in _METHODS and is_float32:
        method, density = _METHODS[edit.kind]
        return {
            "merge_method": method,
            "base_model": str(edit.base),
            "models": _weighted(edit.operands, edit.coefficients),
            "parameters": {"density": density, "normalize": False},
            "dtype": "float32",
            "out_dtype": "bfloat16",
        }
    if edit.kind == "stored":
        return None  # the part ``vectors`` has it
    if not is_float32:
        return None  # it would calculate in the dtype of the inputs, which is not that of the output
    is_extract = edit.kind == "extract"
    coefficients = (-1.0 if is_extract else 1.0, *edit.coefficients)
    return {
        "merge_method": "linear",
        "models": _weighted((edit.base, *edit.operands), coefficients),
        "parameters": {"normalize": False},
        "dtype": "float32",
        "out_dtype": "float32" if is_extract else "bfloat16",
    }


def _weighted(folders: Sequence[Path], coefficients: Sequence[float]) -> list[dict[str, object]]:
    pairs = zip(folders, coefficients, strict=True)
    return [{"model": str(folder), "parameters": {"weight": weight}} for folder, weight in pairs]
