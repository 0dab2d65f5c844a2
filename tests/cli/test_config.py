"""The option --config: what wins over it, and files that cannot be read, or in two ways."""

from __future__ import annotations

import json

import pytest
import yaml
from commands import invoke, run
from recipes import write


def test_a_single_value_of_an_option_that_repeats(tmp_path, phi, phi_tuned):
    config = write(tmp_path / "c.yaml", {"negate": str(phi_tuned), "scale": "mlp=0", "dry_run": True, "json": True})
    done = invoke("apply", phi, "--config", config)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["actions"] == {"copied": 8, "edited": 25}


def test_flag_over_environment_over_file_over_default(tmp_path, phi, phi_tuned):
    config = tmp_path / "apply.yaml"
    config.write_text(yaml.safe_dump({"add": [str(phi_tuned)], "alpha": 0.25, "dry-run": True, "json": True}))

    def alpha(*arguments, **environment):
        done = run("apply", phi, "--config", config, *arguments, cwd=tmp_path, **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["path"].rpartition("alpha")[2]

    assert alpha() == "0.25"
    assert alpha(TASKARITH_APPLY_ALPHA="0.5") == "0.5"
    assert alpha("--alpha", 0.75, TASKARITH_APPLY_ALPHA="0.5") == "0.75"


@pytest.mark.parametrize(("text", "words"), [("alhpa: 1", "alhpa"), ("- a", "must map"), ("a: [", "cannot read")])
def test_a_wrong_configuration_is_refused(tmp_path, monkeypatch, text, words):
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "c.yaml").write_text(text)
    result = invoke("apply", "--config", tmp_path / "c.yaml", "--negate", "v")
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alpha: 1\nalpha: 3", "occurs twice"),
        ("dry-run: true\ndry_run: false", "keys both"),
        ("alpha: yes", "alpha cannot be true"),
        ("dtype: no", "dtype cannot be false"),
        ("alpha: 010", "plain digits"),
    ],
)
def test_a_configuration_that_can_be_read_in_two_ways_is_refused(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    result = invoke("apply", "base", "--config", tmp_path / "c.yaml", "--negate", "v")
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
