"""Tests of names that anybody may read."""

from __future__ import annotations

import pytest

from taskarith.cards.names import hub_id, public_name

_COMMIT = "0123456789" * 4


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"name": "org/base", "revision": _COMMIT}, "org/base"),
        ({"name": f"org/vec@{_COMMIT}:a/forget.safetensors"}, "org/vec"),
        ({"name": "org/base", "revision": None}, ""),
        ({"name": "runs/base"}, ""),
        ({"name": "../base", "revision": "x"}, ""),
        ({"name": "/home/ann", "revision": "x"}, ""),
        ({"name": "org/<b>", "revision": "x"}, ""),
        ({"name": "org/x\n", "revision": "x"}, ""),
        (None, ""),
        ({}, ""),
    ],
)
def test_an_id_of_the_hub_is_known_by_its_revision(record, name):
    assert hub_id(record) == name


def test_of_a_path_the_last_part_is_told():
    assert public_name({"name": "/home/ann/secret/forget.safetensors"}) == "forget.safetensors"
    assert public_name({"name": "../base", "revision": None}) == "base"
    assert public_name({"name": "org/base", "revision": _COMMIT}) == f"org/base@{_COMMIT}"
    assert public_name({"name": "/"}) == "a model"
