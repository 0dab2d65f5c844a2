"""The rows with the largest norms."""

from __future__ import annotations

import json

import numpy as np
import pytest
from packed_forms import check_apply, deltas_of
from safetensors import safe_open

from taskarith.vectors.extract import extract


@pytest.mark.parametrize("share", [0.2, 0.01, 1.0])
def test_rows_with_the_largest_norms_are_kept_whole(tmp_path, equal_deltas, share):
    result = extract(*map(str, equal_deltas), tmp_path / "v.safetensors", rows=share)
    wanted = deltas_of(*equal_deltas)
    for delta in wanted.values():
        if delta.ndim >= 2:
            norms = (delta.astype(np.float64) ** 2).sum(1)
            count = max(1, round(share * len(norms)))
            delta[np.argsort(-norms, kind="stable")[count:]] = 0
    check_apply(equal_deltas[0], result.path, wanted, tmp_path / "out", alpha=-1.0)
    with safe_open(result.path, "pt") as file:
        assert json.loads(file.metadata()["options"]) == {"rows": share}
        assert json.loads(file.metadata()["error"]) == result.loss.error
