"""Relations of task vectors as a tidy table."""

from __future__ import annotations

from relating import relation

from taskarith.relations.relate import relate


def test_norms_and_measures_by_group_with_what_is_undefined_left_out():
    rows = {(row.model, row.text, row.metric): row.value for row in relation().tidy()}
    assert rows["one", "all weights", "norm"] == 5.0
    assert rows["two", "layer 0", "norm"] == 8.0
    assert rows["one, two", "mlp", "cosine"] == -0.5
    assert rows["one, two", "all weights", "overlap of the largest 1%"] == 0.25
    assert ("one, two", "all weights", "overlap of the largest 10%") not in rows  # not a number
    zero = [row.metric for row in relation(zero=True).tidy()]
    assert "cosine" not in zero


def test_outputs_have_intervals_and_counts(room, texts):
    found = relate([str(room / "a.safetensors"), str(room / "b.safetensors")], data=texts, inputs=4, block_size=16)
    rows = {(row.model, row.text, row.metric): row for row in found.tidy()}
    change = rows["one", "two", "change of the loss"]
    assert (change.value, change.low, change.n) == (
        found.outputs.changes[0][1].value,
        found.outputs.changes[0][1].low,
        4,
    )
    assert ("one, two", "outputs", "correlation of loss changes") in rows
    assert rows["one times 1 subtracted", "two", "expected rise of the loss"].high is not None
