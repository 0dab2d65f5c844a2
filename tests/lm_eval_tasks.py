"""Tasks of lm-eval that need no network."""

from __future__ import annotations

import importlib.util
import json

import layouts
import pytest

INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_it = pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed: pip install 'taskarith[lm-eval]'")


ROWS = [
    {"question": "The river is", "choices": ["stone", "salt and bread"], "answer": 0},
    {"question": "The road is", "choices": ["hill", "tide song"], "answer": 1},
    {"question": "The bread is", "choices": ["north", "copper valve"], "answer": 0},
    {"question": "The winter is", "choices": ["engine", "harbour"], "answer": 1},
]


def write_task(folder, rows=ROWS, name="mine", **more):
    folder.mkdir(parents=True, exist_ok=True)
    layouts.write_lines(folder / f"{name}.jsonl", rows)
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    } | more
    (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")  # YAML holds JSON
    return folder
