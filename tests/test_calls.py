"""How the verbs may be called."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from taskarith.calls import listed, renamed


def test_one_text_or_path_is_a_list_of_one():
    assert listed("forget.txt") == listed(Path("forget.txt")) == listed(["forget.txt"]) == ["forget.txt"]
    assert listed(()) == []
    assert listed((Path("a"), "b")) == ["a", "b"]


def test_an_old_name_works_with_a_warning_and_never_beside_the_new_one():
    @renamed(retain="reference")
    def measure(model, *, reference=None):
        return model, reference

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure("m", reference="r") == ("m", "r")
    with pytest.warns(DeprecationWarning, match="retain= is called reference= now"):
        assert measure("m", retain="r") == ("m", "r")
    with pytest.raises(TypeError, match="reference= is given twice"):
        measure("m", retain="r", reference="s")
