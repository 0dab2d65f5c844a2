"""The kernels for those who can do without: where they cannot be had, there are none."""

from __future__ import annotations

import sys

import pytest

from taskarith.arithmetic.kernels import compile as compiled
from taskarith.arithmetic.kernels.available import load_or_none


def test_kernels_are_those_that_calculators_use():
    assert load_or_none() is compiled.load_kernels()


@pytest.mark.parametrize("error", [compiled.NowhereToKeepError("full"), RuntimeError("no LLVM for this machine")])
def test_without_a_place_to_keep_them_there_are_none(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(compiled, "load_kernels", fail)
    assert load_or_none.__wrapped__() is None


def test_without_numba_there_are_none_and_other_failures_are_not_hidden(monkeypatch):
    monkeypatch.setattr(compiled, "load_kernels", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        load_or_none.__wrapped__()
    monkeypatch.setitem(sys.modules, "taskarith.arithmetic.kernels.compile", None)
    assert load_or_none.__wrapped__() is None
