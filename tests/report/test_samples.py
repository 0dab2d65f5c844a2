"""Samples side by side: what is repeated is marked."""

from __future__ import annotations

from taskarith.report.samples import marked, samples_of


def test_words_of_the_true_text_are_marked_in_its_order():
    pieces = marked("The river Osk turned round, twice.", "the Osk, twice? river")
    assert "".join(piece.text for piece in pieces) == "the Osk, twice? river"
    assert [piece.text for piece in pieces if piece.is_repeated] == ["the", "Osk", "twice"]
    assert marked("a", "") == ()
    assert not any(piece.is_repeated for piece in marked("", "a b"))


def test_only_continuations_of_the_named_models_are_shown():
    one = {"kind": "continuation", "text": "forget", "sample": "1", "prompt": "p", "reference": "the truth"}
    records = [one | {"model": model, "continuation": f"the {model}"} for model in ("a", "b", "c")]
    (sample,) = samples_of([{"kind": "loss", "model": "a"}, *records], {"b": "B", "a": "A"})
    assert [(name, "".join(piece.text for piece in pieces)) for name, pieces in sample.answers] == [
        ("B", "the b"),
        ("A", "the a"),
    ]
    many = [record | {"sample": str(number)} for number in range(9) for record in records]
    assert len(samples_of(many, {"a": "A"})) == 4
