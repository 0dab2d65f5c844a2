"""How vectors relate: numbers and laws of weights, subspaces and outputs; the verdict; what is refused."""

from __future__ import annotations

import json
import math
import re

import pytest
import tiny
from relating import write
from safetensors.torch import load_file
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.errors import MismatchError, UsageError, VectorError
from taskarith.relations.relate import relate
from taskarith.vectors.extract import extract


def test_what_is_refused(room, phi, tmp_path):
    a = str(room / "a.safetensors")
    with pytest.raises(UsageError, match="two vectors"):
        relate([a])
    with pytest.raises(UsageError, match="1 test sets"):
        relate([a, a], data={"x": "nowhere.txt"})
    with pytest.raises(UsageError, match="beta"):
        relate([a, a], beta=-1)
    with pytest.raises(VectorError, match="no vector"):
        relate([a, str(tmp_path / "none.safetensors")])
    other = tiny.save_model(tmp_path / "other", "llama")
    with pytest.raises(MismatchError, match="not in"):
        relate([a, a], model=str(other))
    tensors = load_file(a)
    with_nan = {name: value.clone() for name, value in tensors.items()}
    broken = next(name for name in with_nan if name.endswith("fc1.weight"))
    with_nan[broken].view(-1)[7] = math.nan
    write(a, with_nan, tmp_path / "nan.safetensors")
    with pytest.raises(MismatchError, match=r"fc1\.weight"):
        relate([a, str(tmp_path / "nan.safetensors")])


def test_strangers_and_uneven_norms_are_told(room, phi, tmp_path):
    a = str(room / "a.safetensors")
    moved = tiny.save_model(tmp_path / "moved", nudge_of=phi, seed=8)
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=moved, seed=9, scale=1e-1)
    extract(str(moved), str(tuned), tmp_path / "far.safetensors")
    remarks = relate([a, str(tmp_path / "far.safetensors")]).remarks
    assert any("assumes vectors of one base" in remark for remark in remarks)
    assert any(
        re.match(r"far is (9\.9|10)\S* times as long as a and dominates .* \(far:0\.1", remark) for remark in remarks
    )


def run(*arguments):
    return CliRunner().invoke(app, ["relate", *map(str, arguments)])


def test_the_command(room, texts, lessons, tmp_path):
    a, b = room / "a.safetensors", room / "b.safetensors"
    data = [part for name, path in texts.items() for part in ("--data", f"{name}={path}")]
    done = run(a, b, *data, "--block-size", 16, "--inputs", 4, "--rank", 2, "--plot", tmp_path / "map.svg")
    assert done.exit_code == 0, done.stderr
    cosine = relate([str(a), str(b)]).weights.group().cosine(0, 1)
    row = next(line for line in done.stdout.splitlines() if line.startswith("cosine"))
    assert f"{cosine:+.3f}" in row
    for words in ("one and two: ", "loss changes (decides)", "expected rise", "shared energy"):
        assert words in done.stdout, words
    assert "undecided, alpha" in done.stdout
    assert "because the vector of one is not recorded" in done.stdout
    twice = [part for name in "ab" for part in ("--data", f"{name}={texts['one']}")]
    assert "This assumes: " in run(lessons["one"], lessons["one"], *twice, "--block-size", 16, "--inputs", 4).stdout
    assert (tmp_path / "map.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert run(a, b, "--plot", tmp_path / "map.bmp").exit_code == 1
    bare = run(a, b, "--json", "--quiet", "--plot", tmp_path / "map.png")
    assert bare.stderr == ""
    assert json.loads(bare.stdout)["weights"]["all"]["cosine"] == [pytest.approx(cosine)]
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    alone = run(a)
    assert (alone.exit_code, "two vectors" in alone.stderr) == (2, True)
