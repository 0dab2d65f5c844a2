"""Tests of commands that are published."""

from __future__ import annotations

import pytest

from taskarith.cards.command import public_command


@pytest.mark.parametrize(
    ("command", "public"),
    [
        ("taskarith apply base --negate v.safetensors:0.5", "taskarith apply base --negate v.safetensors:0.5"),
        ("__main__.py apply /home/ann/m -o runs/out", "taskarith apply m -o output"),
        ("taskarith apply o/base@ab --add o/t@@o/base:0.5", "taskarith apply o/base@ab --add o/t@@o/base:0.5"),
        ("taskarith apply --add=~/v/a.safetensors@@../b/c:0.5", "taskarith apply --add=a.safetensors@@c:0.5"),
        ("taskarith combine '/x/a:0.5 - ./b/c' --output=/y/z", "taskarith combine 'a:0.5 - c' --output=output"),
        ("taskarith extract m t --overwrite -q -o /a/v.safetensors", "taskarith extract m t -o output.safetensors"),
        ("pytest tests", ""),
        ("taskarith 'unclosed", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_paths_are_reduced_to_their_last_part(command, public):
    assert public_command(command) == public


def test_a_relative_path_that_exists_is_no_hub_id(tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "forget").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert public_command("taskarith finetune o/m --data a=texts/forget") == "taskarith finetune o/m --data a=forget"
