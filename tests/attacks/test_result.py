"""The result of attacks is shown without what attacks a model: neither torch nor PEFT is imported for a report."""

from __future__ import annotations

import subprocess
import sys

from taskarith.attacks.recovery import Outcome
from taskarith.attacks.result import AttackResult


def test_a_report_of_attacks_needs_no_torch():
    code = "import sys, taskarith.report.folders; print(sorted({'torch', 'peft', 'transformers'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_nothing_is_strongest_without_shares():
    outcome = Outcome("none", "none", "all", 0, {}, {}, 4)
    result = AttackResult({"edited": "e"}, {}, (outcome,), ("a",), ("no before",), [])
    assert result.strongest == ()
    assert result.to_json()["strongest"] == []
    assert result.to_json()["given_to_attacker"] == ["a"]
    assert repr(result) == "AttackResult(edited='e', outcomes=1, strongest=[])"
