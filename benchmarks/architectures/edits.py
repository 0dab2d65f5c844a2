"""Steps of the sweep: extract, apply, the bits of the result, how it loads, and verify."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import taskarith
from benchmarks.architectures.case import Case, check, files, same
from benchmarks.oracle import bfloat16
from taskarith.vectors.forecast import forecast_extract

__all__ = ["loads", "negates", "restores", "verifies"]

DTYPES = ("float32", "bfloat16")
_ALPHA = 0.7


def restores(case: Case) -> None:
    """Add the extracted vector to its base: the fine-tune, bit for bit."""
    for dtype in DTYPES:
        vector, base = str(case.path(f"vector-{dtype}.safetensors")), case.base(dtype)
        forecast = forecast_extract(base, case.tuned(dtype), vector, exact=True)
        made = taskarith.extract(base, case.tuned(dtype), vector, exact=True)
        check(made.nbytes <= forecast.write_bytes, f"the dry run says {forecast.write_bytes} bytes, not {made.nbytes}")
        out = case.path(f"added-{dtype}")
        taskarith.apply(base, add=[vector], output_dir=out)
        same(files(out), files(case.tuned(dtype)))
        out = case.path(f"added-pair-{dtype}")
        taskarith.apply(base, add=[case.difference(dtype)], output_dir=out)
        same(files(out), files(case.tuned(dtype)))


def negates(case: Case) -> None:
    """Subtract 0.7 of it: what float64 gives, rounded once."""
    for dtype in DTYPES:
        base, tuned = files(case.base(dtype)), files(case.tuned(dtype))
        same(files(_negated(case, dtype)), {name: _rounded_once(base[name], tuned[name]) for name in base})


def loads(case: Case) -> None:
    """Load the edited folder: nothing missing, and the state and logits of the same edit made in memory."""
    for dtype in DTYPES:
        kind = getattr(torch, dtype)
        written, model = (case.load(path, kind) for path in (_negated(case, dtype), case.base(dtype)))
        case.runs(model)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with taskarith.InMemoryEdit(model, case.base(dtype), negate=[case.difference(dtype)]) as edit:
            edit.set(_ALPHA)
            same(model.state_dict(), written.state_dict())
            first, second = case.forward(model), case.forward(written)
            check(torch.isfinite(first).all(), "logits that are not finite")
            check(torch.equal(first, second), f"logits differ by {float((first - second).abs().max()):.1e}")
        same(model.state_dict(), before)


def verifies(case: Case) -> None:
    """Verify finds the written edits sound."""
    for dtype in DTYPES:
        found = taskarith.verify(_negated(case, dtype))
        check(found.is_sound and found.sampled, f"verify: {found.damaged or found.wrong or found.unsampled}")


def _negated(case: Case, dtype: str) -> Path:
    out = case.path(f"negated-{dtype}")
    if not out.exists():
        taskarith.apply(case.base(dtype), negate=[case.difference(dtype)], alpha=_ALPHA, output_dir=out)
    return out


def _rounded_once(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    if not base.is_floating_point():
        return base
    before, after = (tensor.double().numpy() for tensor in (base, tuned))
    result = np.asarray(before - _ALPHA * (after - before))
    if base.dtype == torch.bfloat16:
        return torch.from_numpy(bfloat16(np.atleast_1d(result)).view(np.int16)).view(torch.bfloat16).reshape(base.shape)
    return torch.from_numpy(result).to(base.dtype)
