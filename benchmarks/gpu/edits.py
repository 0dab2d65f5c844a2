"""Edits and merges by command, on each device: seconds until the output is durable, and how far results differ."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.gpu.bench import Bench
from benchmarks.measure import Measure
from benchmarks.models import hidden_size, write_adapter
from benchmarks.results import table

__all__ = ["edits", "matrices"]

_ABOUT_EDITS = """Commands from call to durable output, inputs in the page cache, one run each, {parameters:.3g} B
parameters in bfloat16. `--device auto` is the CPU for these: it is the disk that they wait for."""

_ABOUT_MATRICES = """Of two of the model's 24 layers: twelve matrices of {hidden} to {wide} rows and columns.
`--device auto` is the GPU for these. In brackets, the largest difference of any element, as a share of its tensor's
largest change; `verify` allows 1e-6."""

_TITLES = {
    "negate": "apply --negate, one fine-tune",
    "lora": "apply, one LoRA of rank 16",
    "extract": "extract to float32",
    "two": "apply, two fine-tunes",
    "slerp": "apply --method slerp, two fine-tunes",
    "ties": "apply --method ties, two fine-tunes",
    "dare_ties": "apply --method dare_ties, two fine-tunes",
}
_WHOLE = {
    "extract-16": "extract --rank 16",
    "low_rank": "apply --method low_rank --rank 16, one fine-tune",
    "tsv": "apply --method tsv, two fine-tunes",
    "iso_c": "apply --method iso_c, two fine-tunes",
    "wudi": "apply --method wudi, two fine-tunes",
}


def edits(bench: Bench) -> str:
    """Measure what is done element by element."""
    base, first, second = map(str, bench.models())
    adapter = write_adapter(bench.work / "adapter", Path(base), hidden_size(bench.parameters))
    one, both = ["--negate", f"{first}@@{base}"], ["--add", f"{first}@@{base}", "--add", f"{second}@@{base}"]
    commands = {
        "negate": ["apply", base, *one],
        "two": ["apply", base, *both],
        "lora": ["apply", base, "--add", str(adapter)],
        "extract": ["extract", base, first],
        "slerp": ["apply", base, *both, "--method", "slerp"],
        "ties": ["apply", base, *both, "--method", "ties", "--density", "0.2"],
        "dare_ties": ["apply", base, *both, "--method", "dare_ties", "--density", "0.1"],
    }
    about = _ABOUT_EDITS.format(parameters=bench.parameters / 1e9)
    return f"{about}\n\n{_table(bench, commands, _TITLES, Path(base))}"


def matrices(bench: Bench) -> str:
    """Measure what decomposes whole matrices."""
    base, first, second = map(str, bench.models(matrices=True))
    one, both = ["--add", f"{first}@@{base}"], ["--add", f"{first}@@{base}", "--add", f"{second}@@{base}"]
    commands = {name: ["apply", base, *both, "--method", name] for name in ("tsv", "iso_c", "wudi")}
    commands["low_rank"] = ["apply", base, *one, "--method", "low_rank", "--rank", "16"]
    commands["extract-16"] = ["extract", base, first, "--rank", "16"]
    hidden = hidden_size(bench.parameters)
    about = _ABOUT_MATRICES.format(hidden=hidden, wide=4 * hidden)
    return f"{about}\n\n{_table(bench, commands, _WHOLE, Path(base))}"


def _table(bench: Bench, commands: Mapping[str, Sequence[str]], titles: Mapping[str, str], base: Path) -> str:
    rows = []
    for name, title in titles.items():
        if not bench.has_time(title):
            continue
        found: dict[str, Measure | str] = {}
        for device in bench.devices:
            suffix = ".safetensors" if name == "extract" else ""
            found[device.name] = bench.run(f"{name}-{device.name}{suffix}", [*commands[name], "--device", device.name])
            print(name, device.name, found[device.name], flush=True)
        rows.append([title, *(_seconds(found[device.name]) for device in bench.devices)])
        if bench.gpu:
            ran = all(isinstance(one, Measure) for one in found.values())
            outputs = [_output(bench.work / f"{name}-{device.name}") for device in bench.devices]
            rows[-1].append(_compared(*outputs, base) if ran else "-")
        for device in bench.devices:
            shutil.rmtree(bench.work / f"{name}-{device.name}", ignore_errors=True)
            (bench.work / f"{name}-{device.name}.safetensors").unlink(missing_ok=True)
    heads = ["", *(f"{device.name}, s" for device in bench.devices)]
    return table([*heads, "difference"] if bench.gpu else heads, rows)


def _seconds(found: Measure | str) -> str:
    return f"{found.durable:.1f}" if isinstance(found, Measure) else f"failed: {found}"


def _output(place: Path) -> Path:
    """Return the file of weights that a command wrote."""
    if not place.is_dir():
        return place.with_name(f"{place.name}.safetensors")
    adapter = place / "adapter_model.safetensors"
    return adapter if adapter.exists() else place / "model.safetensors"


def _compared(first: Path, second: Path, base: Path) -> str:
    """Say how far two files of weights are apart."""
    one, other = load_file(first), load_file(second)
    if all(torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8)) for name in one):
        return "same bits"
    if first.name.startswith("adapter"):
        products = [_products(each) for each in (one, other)]
        gaps = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(*products, strict=True)]
        return f"{max(gaps):.1e} (products of the factors)"
    before, gaps, moved = load_file(base / "model.safetensors"), [], 0
    for name, values in one.items():
        change = (values.double() - before[name].double()).abs().max()
        apart = (values.double() - other[name].double()).abs()
        moved += int((apart > 0).sum())
        gaps.append(float(apart.max() / change) if change else 0.0)
    share = moved / sum(values.numel() for values in one.values())
    return f"{share:.1e} of the elements round to the neighbour ({max(gaps):.1e})"


def _products(factors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    names = sorted(name for name in factors if "lora_A" in name)
    return [factors[name.replace("lora_A", "lora_B")].double() @ factors[name].double() for name in names]
