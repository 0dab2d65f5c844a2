"""Rows are dealt to processes, none twice: whatever their number, processes train what one process trains."""

from __future__ import annotations

import json

import pytest
import tiny
from finetuning import distance, quick

from taskarith.data.tokens import Sample
from taskarith.training.dealing import Dealt, collate_dealt, idle_processes
from taskarith.training.examples import IGNORED, Collator, Example
from taskarith.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [1, 3, 5, 9, 12]


def test_two_processes_and_accumulation_train_what_one_trains_whatever_the_number_of_rows(tmp_path, run_on_two):
    """Two epochs; also where a process has nothing in the last step, or ever."""
    base = str(tiny.save_model(tmp_path / "base", "llama"))
    kept = tmp_path / "kept.txt"
    kept.write_text(tiny.text(3, seed=7), encoding="utf-8")
    calls = []
    for rows in ROWS:
        data = tmp_path / f"{rows}.jsonl"
        lines = [json.dumps({"text": tiny.text(1 + row % 3, seed=row)}) for row in range(rows)]
        data.write_text("\n".join(lines), encoding="utf-8")
        options = quick(num_train_epochs=2, max_steps=None, block_size=64, per_device_train_batch_size=8)
        more = {3: {"retain": [str(kept)], "retain_weight": 0.3}, 5: {"lora": True}, 9: {"objective": "simnpo"}}
        more[12] = {"packing": True, "group_by_length": True}
        calls.append((rows, base, [str(data)], options | more.get(rows, {})))
    results = {}
    for rows, model, data, options in calls:
        results[rows] = finetune(model, data, tmp_path / f"{rows}", **options)
        options |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
        finetune(model, data, tmp_path / f"{rows}-accumulated", **options)
        options |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    code = (
        "import json, os\nfrom taskarith.training.finetune import finetune\nfound = {}\n"
        f"for rows, model, data, options in {calls!r}:\n"
        "    result = finetune(model, data, f'{rows}-two', **options)\n"
        "    found[rows] = [result.final_loss, result.data_loss, result.tokens, result.steps]\n"
        "print(json.dumps(found), file=open('found' + os.environ['RANK'], 'w'))"
    )
    run_on_two(code, tmp_path)
    found = json.loads((tmp_path / "found0").read_text())
    assert found == json.loads((tmp_path / "found1").read_text())
    for rows, one in results.items():
        assert found[str(rows)] == pytest.approx([one.final_loss, one.data_loss, one.tokens, one.steps], abs=1e-6), rows
        for other in ("accumulated", "two"):
            assert distance(tmp_path / f"{rows}", tmp_path / f"{rows}-{other}") < 5e-6, (rows, other)


def test_a_batch_without_rows_learns_nothing():
    rows = [Example(Sample("a", (1, 2, 3), 0)), Example(Sample("b", (4, 5), 0))]
    dealt = Dealt(rows)
    collate = collate_dealt(Collator(0, weighted=False), rows)
    assert len(dealt) == 2
    assert collate([dealt[1], dealt[None]])["input_ids"].tolist() == [[4, 5]]
    assert (collate([dealt[None], dealt[None]])["labels"] == IGNORED).all()


@pytest.mark.parametrize(("rows", "idle"), [(1, 2), (4, 2), (5, 1), (8, 1), (9, 0), (100, 0)])
def test_processes_that_never_have_a_row(rows, idle):
    assert idle_processes(rows, 4, 3) == idle
