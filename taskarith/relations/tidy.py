"""Relations of task vectors as a tidy table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from taskarith.evaluation.score import tidy_row
from taskarith.relations.correlations import OutputRelations
from taskarith.relations.geometry import TOP_SHARES, WeightRelations
from taskarith.tidy import TidyRow

__all__ = ["output_rows", "weight_rows"]

_MEASURES = ("cosine", "sign_agreement", "interference")


def weight_rows(weights: WeightRelations, pairs: Sequence[tuple[int, int]]) -> Iterator[TidyRow]:
    """Yield norms of vectors, and every measure of every pair as weights, by group of tensors."""
    groups = {"all weights": weights.group(), "without embeddings and head": weights.without_embeddings()}
    groups |= {kind: weights.of_kind(kind) for kind in weights.kinds}
    groups |= {f"layer {layer}": weights.of_layer(layer) for layer in weights.layers}
    for text, group in groups.items():
        yield from (TidyRow(name, text, "norm", norm) for name, norm in zip(weights.names, group.norms, strict=True))
        for i, j in pairs:
            pair = f"{weights.names[i]}, {weights.names[j]}"
            values = {measure: getattr(group, measure)(i, j) for measure in _MEASURES}
            yield from (TidyRow(pair, text, name, value) for name, value in values.items() if value is not None)
    for share in TOP_SHARES:
        for i, j in pairs:
            value, pair = float(weights.overlaps[share][i, j]), f"{weights.names[i]}, {weights.names[j]}"
            if value == value:  # noqa: PLR0124  (not NaN)
                yield TidyRow(pair, "all weights", f"overlap of the largest {share:.0%}", value)


def output_rows(outputs: OutputRelations) -> Iterator[TidyRow]:
    """Yield every correlation of every pair, changes of losses, and the forecast of a removal."""
    names = outputs.names
    for measure, by_pair in outputs.correlations.items():
        for (i, j), value in by_pair.items():
            if value is not None:
                yield tidy_row(f"{names[i]}, {names[j]}", "outputs", f"correlation of {measure}", value)
    for name, changes in zip(names, outputs.changes, strict=True):
        yield from (tidy_row(name, text, "change of the loss", one) for text, one in zip(names, changes, strict=True))
    for removal in outputs.removals:
        label = f"{names[0]} times {removal.alpha:g} subtracted"
        yield tidy_row(label, removal.task, "expected rise of the loss", removal.rise)
