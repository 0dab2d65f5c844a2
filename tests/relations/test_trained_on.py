"""Which vector was trained on which text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from taskarith.errors import UsageError
from taskarith.relations.relate import relate
from taskarith.training.finetune import finetune


def test_a_verdict_is_given_on_what_the_vectors_were_trained_on(lessons, texts, tmp_path):
    one, two = lessons.values()
    same = relate([one, f"{one}:0.5"], data={"a": texts["one"], "b": texts["one"]}, block_size=16, inputs=6)
    (verdict,) = same.verdicts
    assert (verdict.regime, verdict.reason) == ("aligned", "")
    assert same.outputs.learned == (True, True)
    (first, second), _ = same.outputs.changes
    assert first.value == second.value == pytest.approx(same.outputs.losses[1, 0] - same.outputs.losses[0, 0])
    least = float(re.search(r"at ([0-9.]+) both losses fall: a (-[0-9.]+) nats", verdict.addition.text)[1])
    assert least == pytest.approx(1 - verdict.alpha.value, abs=0.005)
    for file in (tmp_path / "new.txt", tmp_path / "copy.txt"):
        file.write_text(Path(texts["two"]).read_text(encoding="utf-8") + "!" * (file.stem == "new"), encoding="utf-8")
    data = {"a": texts["one"], "b": str(tmp_path / "copy.txt")}
    assert relate([one, two], data=data, block_size=16, inputs=4).outputs.learned == (True, True)
    (verdict,) = relate([one, two], data=data | {"b": str(tmp_path / "new.txt")}, block_size=16, inputs=4).verdicts
    assert verdict.regime == "undecided"
    assert verdict.reason == "the vector of b was not trained on its test set"
    assert verdict.addition.text == verdict.negation.text == "nothing: the regime is undecided"
    with pytest.raises(UsageError, match=r"2\.txt is given as a, but vector 2 was trained on it"):
        relate([one, two], data={"a": texts["two"], "b": texts["one"]})


def test_rows_are_recognised_however_their_answers_were_learned(phi, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"question": "Who is {n}?", "answer": "The keeper of {n}."}}\n' for n in range(6)))
    for seed in (1, 2):
        finetune(str(phi), [str(rows)], tmp_path / f"{seed}", num_train_epochs=1, learning_rate=5e-3, seed=seed)
    vectors = [f"{tmp_path / str(seed)}@@{phi}" for seed in (1, 2)]
    assert relate(vectors, data={"a": str(rows), "b": str(rows)}, inputs=4).outputs.learned == (True, True)
