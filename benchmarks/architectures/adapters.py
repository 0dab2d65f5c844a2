"""Steps of the sweep: PEFT's adapters here, and our low-rank folders in PEFT."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedModel

import taskarith
from benchmarks.architectures.case import (
    RANK,
    Case,
    ImpossibleError,
    Notes,
    WrongError,
    check,
    close,
    files,
    write_like,
)
from taskarith.vectors.forecast import forecast_extract

__all__ = [
    "adds_adapter",
    "adds_embedding_adapter",
    "adds_head_adapter",
    "combines",
    "factors_restore",
    "peft_restores",
]


def adds_adapter(case: Case) -> None:
    """Apply PEFT's all-linear adapter: what PEFT merges."""
    _adds(case, "adapter", "all-linear")


def adds_head_adapter(case: Case) -> None:
    """Apply an adapter on the output layer."""
    model = case.load(case.base())
    _adds(case, "head-adapter", _module(model, model.get_output_embeddings(), "output layer"))


def adds_embedding_adapter(case: Case) -> None:
    """Apply an adapter on the input embedding."""
    model = case.load(case.base())
    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:
        embedding = None
    _adds(case, "embedding-adapter", _module(model, embedding, "input embedding"))


def combines(case: Case) -> None:
    """Combine two adapters into one: applied, it is what both are together."""
    _make_adapter(case, "first", "all-linear", 1)
    _make_adapter(case, "second", "all-linear", 2)
    first, second = str(case.path("first")), str(case.path("second"))
    taskarith.combine(f"{first}:0.5 - {second}:0.25", case.path("mixed"), base=case.base())
    taskarith.apply(case.base(), add=[str(case.path("mixed"))], output_dir=case.path("mixed-out"))
    taskarith.apply(case.base(), add=[f"{first}:0.5"], negate=[f"{second}:0.25"], output_dir=case.path("both-out"))
    close(files(case.path("mixed-out")), files(case.path("both-out")))


def peft_restores(case: Case) -> None:
    """Load ``extract --rank`` in PEFT without a warning: merged, and with what it names as the rest, the fine-tune."""
    folder, tuned = _factored(case)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            adapted = PeftModel.from_pretrained(case.load(case.base()), folder)
        except Exception as error:
            raise WrongError(f"PEFT does not load the folder: {type(error).__name__}: {_line(error)}") from error
    warned = [str(one.message) for one in caught if re.search("missing|unexpected|not found|No ", str(one.message))]
    adapted.merge_and_unload().save_pretrained(case.path("merged"))
    merged, rest = files(case.path("merged")), folder / "rest.safetensors"
    for name, delta in (load_file(rest) if rest.exists() else {}).items():
        check(name in merged, f"PEFT's merge lacks {name}")
        merged[name] = merged[name] + delta.reshape(merged[name].shape)
    close({name: merged[name] for name in tuned if name in merged}, tuned, 1e-5)
    check(not warned, f"PEFT warns: {warned and warned[0][:200]}")


def factors_restore(case: Case) -> None:
    """Apply the same folder with taskarith: the fine-tune."""
    folder, tuned = _factored(case)
    taskarith.apply(case.base(), add=[str(folder)], output_dir=case.path("unfactored"))
    close(files(case.path("unfactored")), tuned, 1e-5)


def _adds(case: Case, name: str, target: str) -> None:
    """Compare with PEFT's merge; or, where both sides of a tie move, with the logits of PEFT's unmerged model."""
    merged, logits = _make_adapter(case, name, target)
    out, listener = case.path(f"{name}-out"), Notes()
    result = taskarith.apply(case.base(), add=[str(case.path(name))], output_dir=out, listener=listener)
    ours = case.load(out)
    try:
        close(ours.state_dict(), merged)
    except WrongError:
        is_told = any("tie" in note for note in (*listener.notes, *result.remarks))
        off = float((case.forward(ours) - logits).abs().max() / logits.abs().max())
        if target == "all-linear" or not is_told or not off < 1e-4:
            raise


def _make_adapter(case: Case, name: str, target: str, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Let PEFT save an adapter with random factors; return what it merges after loading it, and the unmerged logits."""
    is_causal = any(word in case.cls.__name__ for word in ("CausalLM", "LMHead"))
    config = LoraConfig(
        r=RANK,
        lora_alpha=8,
        target_modules=target if target == "all-linear" or target.startswith("^") else [target],
        init_lora_weights=False,
        task_type="CAUSAL_LM" if is_causal else None,
    )
    model, again = case.load(case.base()), case.load(case.base())
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            adapted = get_peft_model(model, config).eval()
            adapted.save_pretrained(case.path(name))
            logits = case.forward(adapted.get_base_model())
            merged = PeftModel.from_pretrained(again, case.path(name)).merge_and_unload().state_dict()
            close(merged, adapted.merge_and_unload().state_dict())
        except WrongError as error:
            raise ImpossibleError(f"PEFT does not load what it saved: {error}") from error
        except Exception as error:
            raise ImpossibleError(f"PEFT: {type(error).__name__}: {_line(error)}") from error
    return merged, logits


def _module(model: PreTrainedModel, wanted: Any, what: str) -> str:
    """Return what PEFT is to target: the module's name, or an expression where others end in the same name."""
    found = [name for name, module in model.named_modules() if module is wanted and wanted is not None]
    if not found:
        raise ImpossibleError(f"transformers names no {what}")
    is_alone = not any(name.endswith(f".{found[0]}") for name, _ in model.named_modules())
    return found[0] if is_alone else f"^{re.escape(found[0])}$"


def _factored(case: Case) -> tuple[Path, dict[str, torch.Tensor]]:
    """Extract factors of a fine-tune whose deltas have their rank, or are small; all tensors are moved."""
    tuned, folder = case.path("factored-tuned"), case.path("factored")
    if not tuned.exists():
        noise = torch.Generator().manual_seed(5)
        write_like(Path(case.base()), tuned, {n: _moved(t, noise) for n, t in files(case.base()).items()})
    if not folder.exists():
        forecast = forecast_extract(case.base(), str(tuned), folder, rank=RANK)
        made = taskarith.extract_low_rank(case.base(), str(tuned), folder, rank=RANK)
        check(made.nbytes <= forecast.write_bytes, f"the dry run says {forecast.write_bytes} bytes, not {made.nbytes}")
    return folder, files(tuned)


def _moved(tensor: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    if tensor.dim() < 2:
        return tensor + 0.02 * torch.randn(tensor.shape, generator=noise)
    *outer, rows, columns = tensor.shape
    left, right = torch.randn(*outer, rows, 2, generator=noise), torch.randn(*outer, 2, columns, generator=noise)
    return tensor + 0.02 * left @ right


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200]
