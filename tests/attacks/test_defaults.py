"""What an attack measures with where nothing else is asked for."""

from __future__ import annotations

import inspect

from taskarith.attacks.attack import attack
from taskarith.attacks.defaults import MEASUREMENT, RUNTIME


def test_they_are_the_defaults_of_the_verb_and_weights_are_relearned_in_float32():
    values = {one.default for one in inspect.signature(attack).parameters.values() if one.default.__hash__}
    assert {MEASUREMENT, RUNTIME} <= values
    assert RUNTIME.dtype == "float32"
