"""Listeners: the silent one takes all that the console takes."""

from __future__ import annotations

import inspect

import pytest

from taskarith.console import Console
from taskarith.progress import SILENT, Listener


@pytest.mark.parametrize("method", ["progress", "note"])
def test_a_listener_may_be_silent_or_the_console(method, capsys):
    wanted = list(inspect.signature(getattr(Listener, method)).parameters)
    for listener in (type(SILENT), Console):
        assert list(inspect.signature(getattr(listener, method)).parameters) == wanted
    getattr(SILENT, method)(*range(len(wanted) - 1))
    assert capsys.readouterr() == ("", "")
