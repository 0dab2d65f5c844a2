"""Tests of cards: valid metadata, deterministic, and part of what an output's record covers."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load

from taskarith.cards.card import is_card, model_card
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.edit.undo import undo
from taskarith.inspection.verify import verify
from taskarith.training.finetune import finetune
from taskarith.vectors.extract import extract
from taskarith.vectors.low_rank import extract_low_rank

_COMMIT = "0123456789" * 4
_HUB = {"name": "org/base", "revision": _COMMIT, "fingerprint": "ab" * 16}
_LOCAL = {"name": "/home/ann/base", "revision": None, "fingerprint": "ab" * 16}
_DENSE = {"name": "/home/ann/v.safetensors", "kind": "dense", "coefficient": -1.0}
_TUNED = {"name": f"org/tuned@{_COMMIT}", "kind": "finetuned", "coefficient": 1.0}


def _record(kind="edit", base=_HUB, operands=(_DENSE,)):
    more = {"alpha": 1.0, "fingerprint": "x", "energy": 1.0, "finetuned": _LOCAL, "command": ""}
    return {"kind": kind, "base": base, "operands": list(operands), **more}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (_record(), {"base_model": "org/base", "base_model_relation": "finetune", "library_name": "transformers"}),
        (_record(base=_LOCAL), {"library_name": "transformers"}),
        (
            _record(operands=[_DENSE, _TUNED]),
            {
                "base_model": ["org/base", "org/tuned"],
                "base_model_relation": "merge",
                "library_name": "transformers",
            },
        ),
        (
            _record("full"),
            {"base_model": "org/base", "base_model_relation": "finetune", "library_name": "transformers"},
        ),
        (_record("lora"), {"base_model": "org/base", "base_model_relation": "adapter", "library_name": "peft"}),
        (_record("lowrank"), {"base_model": "org/base", "base_model_relation": "adapter", "library_name": "peft"}),
        (_record("combination"), {"base_model": "org/base", "base_model_relation": "adapter", "library_name": "peft"}),
    ],
)
def test_the_metadata_are_those_that_the_hub_knows(record, expected, tmp_path):
    (tmp_path / "README.md").write_text(model_card(record, {"license": "mit"}), encoding="utf-8")
    assert metadata_load(tmp_path / "README.md") == {"license": "mit", "tags": ["task-arithmetic"], **expected}
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.get("base_model") == expected.get("base_model")
    assert card.text.startswith("\n# ")
    assert card.content == model_card(record, {"license": "mit"})  # as huggingface_hub would have written it
    assert is_card(tmp_path)


def test_names_of_strangers_do_not_break_out_of_the_metadata(tmp_path):
    evil = {**_LOCAL, "name": "/x/---\nlicense: wtfpl\n---\n<script>"}
    (tmp_path / "README.md").write_text(model_card(_record(base=evil), {}), encoding="utf-8")
    assert metadata_load(tmp_path / "README.md") == {"library_name": "transformers", "tags": ["task-arithmetic"]}
    assert "license: wtfpl\n" not in (tmp_path / "README.md").read_text()


@pytest.fixture
def licensed(phi, tmp_path):
    """A model with a card of its own."""
    base = tmp_path / "base"
    base.mkdir()
    for path in phi.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    (base / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: a/b\n---\n# The best model\n", "utf-8")
    return base


def test_an_edited_model_has_a_card_of_its_own_that_verify_covers(licensed, phi_tuned, tmp_path):
    extract(str(licensed), str(phi_tuned), tmp_path / "v.safetensors")
    for name in ("one", "two"):
        apply(str(licensed), negate=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / name, keep_undo=True)
    card = (tmp_path / "one" / "README.md").read_text(encoding="utf-8")
    assert card == (tmp_path / "two" / "README.md").read_text(encoding="utf-8")
    assert "The best model" not in card
    assert str(tmp_path) not in card
    assert metadata_load(tmp_path / "one" / "README.md") == {
        "library_name": "transformers",
        "license": "apache-2.0",
        "tags": ["task-arithmetic"],
    }
    assert "README.md" in json.loads((tmp_path / "one" / "taskarith.json").read_text())["files"]
    assert verify(tmp_path / "one").is_sound
    undo(tmp_path / "one", tmp_path / "back")
    assert (tmp_path / "back" / "README.md").read_bytes() == (licensed / "README.md").read_bytes()
    (tmp_path / "one" / "README.md").write_text(card + "Forgotten for good.")
    assert verify(tmp_path / "one").files.changed == ("README.md",)


def test_an_edit_of_an_edit_says_so(licensed, phi_tuned, tmp_path):
    extract(str(licensed), str(phi_tuned), tmp_path / "v.safetensors")
    vector = str(tmp_path / "v.safetensors")
    apply(str(licensed), negate=[vector], output_dir=tmp_path / "one")
    apply(str(tmp_path / "one"), negate=[vector], alpha=0.25, output_dir=tmp_path / "two")
    card = (tmp_path / "two" / "README.md").read_text(encoding="utf-8")
    assert "This model is `one` (" in card
    assert "0.25" in card
    assert "license: apache-2.0\n" in card


def test_adapters_have_cards(licensed, phi_tuned, tmp_path):
    extract_low_rank(str(licensed), str(phi_tuned), tmp_path / "low", rank=2)
    assert metadata_load(tmp_path / "low" / "README.md")["library_name"] == "peft"
    assert "Low-rank adapter" in (tmp_path / "low" / "README.md").read_text()
    assert verify(tmp_path / "low").is_sound


def test_a_combined_adapter_has_a_card(phi, tmp_path):
    from adapters import save_adapter

    save_adapter(phi, tmp_path / "a", seed=1)
    combine(f"{tmp_path / 'a'}:0.5", tmp_path / "mixed", base=str(phi))
    card = (tmp_path / "mixed" / "README.md").read_text()
    assert "- added, `0.5` times: `a` (LoRA adapter)" in card
    assert str(tmp_path) not in card
    assert verify(tmp_path / "mixed").is_sound


@pytest.mark.parametrize("lora", [False, True])
def test_a_fine_tune_has_a_card(licensed, book, tmp_path, lora):
    finetune(str(licensed), data=[str(book)], output_dir=tmp_path / "out", max_steps=1, block_size=32, lora=lora)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "The best model" not in card
    assert str(tmp_path) not in card
    assert metadata_load(tmp_path / "out" / "README.md") == {
        "library_name": "peft" if lora else "transformers",
        "license": "apache-2.0",
        "tags": ["task-arithmetic"],
    }
    assert "- `book.txt` (" in card
    assert verify(tmp_path / "out").is_sound


def test_the_card_of_a_base_is_not_ours(licensed):
    assert not is_card(licensed)
