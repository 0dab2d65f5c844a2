"""What a sweep may try: values that are refused before anything is measured, and the file that keeps trials."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from taskarith.errors import UsageError
from taskarith.merging.methods import LINEAR, parse_method
from taskarith.sweeps.search_options import SearchOptions

PLAIN = {"trials": 0, "steps": 0, "by": (), "alphas": (0.5, 1.0), "kl": 0.0, "storage": None, "seed": 42}
TIES = parse_method("ties", density=0.5)


@pytest.mark.parametrize(
    ("options", "method", "words"),
    [
        ({"alphas": ()}, LINEAR, r"cannot sweep alphas \[\]"),
        ({"alphas": (1.0, math.inf)}, LINEAR, "cannot sweep alphas"),
        ({"alphas": (1.0, 1.0)}, LINEAR, "cannot sweep alphas"),
        ({"trials": -1}, LINEAR, "cannot be combined or negative"),
        ({"trials": 3, "steps": 3}, LINEAR, "cannot be combined or negative"),
        ({"steps": 3, "kl": math.nan}, LINEAR, "--kl nan is out of range"),
        ({"steps": 3, "kl": -0.1}, LINEAR, "--kl -0.1 is out of range"),
        ({"by": ("layer",)}, LINEAR, "need a search"),
        ({"kl": 0.5}, LINEAR, "need a search"),
        ({"storage": "trials.jsonl"}, LINEAR, "need a search"),
        ({"steps": 3, "alphas": (1.0,)}, LINEAR, "needs two bounds"),
        ({"steps": 3, "storage": "trials.jsonl"}, LINEAR, "--gradient cannot be combined with --storage"),
        ({"steps": 3}, TIES, "--gradient cannot be combined with --storage or --method"),
    ],
)
def test_what_cannot_be_tried_is_refused(options, method, words):
    with pytest.raises(UsageError, match=words):
        SearchOptions(**PLAIN | options).check(method, has_aim=True)


@pytest.mark.parametrize(("options", "method"), [({}, LINEAR), ({}, TIES), ({"steps": 3, "kl": 0.5}, LINEAR)])
def test_only_a_search_needs_an_aim(options, method):
    SearchOptions(**PLAIN | options).check(method, has_aim=True)
    if options:
        with pytest.raises(UsageError, match="a search needs a rule"):
            SearchOptions(**PLAIN | options).check(method, has_aim=False)
    else:
        SearchOptions(**PLAIN | options).check(method, has_aim=False)


@pytest.mark.parametrize(
    ("storage", "file"),
    [
        (None, ""),
        ("postgresql://host/trials", ""),
        ("sqlite:///trials.db", "trials.db"),
        ("sqlite:////tmp/trials.db", "/tmp/trials.db"),  # noqa: S108
        ("kept/trials.jsonl", "kept/trials.jsonl"),
    ],
)
def test_the_file_of_a_storage_is_known_by_its_whole_path(storage, file):
    found = SearchOptions(**PLAIN | {"storage": storage}).storage_file
    assert found == (str(Path(file).absolute()) if file else "")
