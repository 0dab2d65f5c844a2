"""The verb `relate`: measure how task vectors relate, and what follows for adding and negating them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from taskarith.arithmetic.parallel import check_device, device_of
from taskarith.calls import listed, named
from taskarith.checkpoints.publish import check_target
from taskarith.checkpoints.team import ALONE, launched_team
from taskarith.data.load import check_form, data_paths
from taskarith.data.spec import named_data
from taskarith.edit.operands import named_paths
from taskarith.errors import UsageError
from taskarith.inspection.open_tensors import plain
from taskarith.models.runtime import RUNTIME, Runtime
from taskarith.progress import SILENT, Listener
from taskarith.relations.correlations import DECISIVE, MULTIPLES, OutputRelations
from taskarith.relations.folder import relation_record, write_relation
from taskarith.relations.geometry import TOP_SHARES, Group, WeightRelations, relate_weights
from taskarith.relations.inputs import INPUTS, InputKeywords, TestInputs, with_keywords
from taskarith.relations.tidy import output_rows, weight_rows
from taskarith.relations.vectors import Related, open_related
from taskarith.relations.verdict import Evidence, Verdict, judge
from taskarith.spec import parse_operand
from taskarith.tidy import TidyResult, TidyRow

if TYPE_CHECKING:
    from taskarith.relations.subspaces import SubspaceRelation

__all__ = ["Relation", "relate"]

_UNEVEN = 2.0
"""Norms or output entropies that differ by more than this factor give a remark."""


@dataclass(frozen=True, repr=False)
class Relation(TidyResult):
    """Relations of task vectors.

    :param names: Names of the vectors, or of their tasks if data is given.
    :param weights: Relations as weights.
    :param subspaces: Relations of leading singular subspaces; None without a rank.
    :param outputs: Relations by their models' outputs; None without data.
    :param verdicts: Verdict on each pair; empty without data.
    :param remarks: Objections to combining them.
    """

    names: tuple[str, ...]
    weights: WeightRelations
    subspaces: tuple[SubspaceRelation, ...] | None
    outputs: OutputRelations | None
    verdicts: tuple[Verdict, ...]
    remarks: tuple[str, ...]

    def _brief(self) -> dict[str, object]:
        cosines = [self.weights.group().cosine(*pair) for pair in self.pairs]
        said = [f"{one.first} and {one.second}: {one.regime}" for one in self.verdicts]
        return {"names": self.names, "cosines": cosines, "verdicts": said}

    def tidy(self) -> list[TidyRow]:
        """Return every measure of every pair, the norms, and with data what the outputs say."""
        outputs = () if self.outputs is None else output_rows(self.outputs)
        return [*weight_rows(self.weights, self.pairs), *outputs]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Indices of the vectors of each pair."""
        return [(i, j) for j in range(len(self.names)) for i in range(j)]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return plain(
            {
                "names": self.names,
                "pairs": [[self.names[i], self.names[j]] for i, j in self.pairs],
                "weights": _weights_json(self.weights, self.pairs),
                "subspaces": None if self.subspaces is None else [asdict(subspace) for subspace in self.subspaces],
                "outputs": None if self.outputs is None else self.outputs.to_json(),
                "verdicts": [asdict(verdict) for verdict in self.verdicts],
                "remarks": self.remarks,
            }
        )


def relate(
    vectors: str | Path | Sequence[str | Path],
    *,
    model: str | Path | None = None,
    data: Mapping[str, str | Path] | str | Path | Sequence[str | Path] | None = None,
    rank: int | None = None,
    beta: float = 0.0,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    launched: bool = False,
    draw: Callable[[Relation, Path], object] | None = None,
    cut: TestInputs = INPUTS,
    runtime: Runtime = RUNTIME,
    listener: Listener = SILENT,
    **keywords: Unpack[InputKeywords],
) -> Relation:
    """Measure how task vectors relate: as weights and, with data, by their models' outputs.

    The vectors are read once, in chunks.

    :param vectors: At least two, of any kind, each with an optional coefficient.
    :param model: Their base; None for the one they record.
    :param data: A test set of each vector's task, in order; its name becomes the vector's.
    :param rank: Also compare leading singular subspaces of this dimension, which takes a while.
    :param beta: Assumed beta of the theorems.
    :param output_dir: Folder for ``results.json`` and ``taskarith.json``; None writes nothing.
    :param overwrite: Replace an existing output.
    :param launched: All processes started by ``accelerate launch`` make this call and share test inputs and subspaces;
        the first compares the weights, and all return the same numbers.
    :param draw: Draws the result into the folder before it is published.
    :param cut: Number, length and chat format of test inputs.
    :param runtime: Dtype and device of the model in memory.
    :param listener: Receives progress updates.
    :param keywords: Fields of ``cut`` and ``runtime`` by name, such as ``inputs=8``.
    :raises UsageError: There are fewer than two vectors, no base is known, or a test set is missing or misplaced.
    :raises VectorError: A vector is missing or of a kind that cannot be used.
    :raises MismatchError: A vector does not fit the base, or has values that are not finite.
    :raises DataError: A test set is missing or too short.
    :raises OutputError: The output exists or cannot be written.
    """
    cut, runtime = with_keywords(keywords, cut, runtime)
    vectors, model, data = listed(vectors), named(model), None if data is None else named_data(data)
    if not data:
        check_form(cut.form, ())
    _check(vectors, data, rank, beta)
    # MPS lacks float64
    place = "cpu" if runtime.device == "mps" else check_device(runtime.device, decomposes=rank is not None)
    target, team = None if output_dir is None else Path(output_dir), launched_team() if launched else ALONE
    if target is not None:
        read = [*named_paths(map(parse_operand, vectors)), model or "", *data_paths((data or {}).values())]
        check_target(target, overwrite, is_folder=True, inputs=read)
    related = open_related(vectors, model, listener, list(data) if data else None, team)
    learned = _learned(related, data, cut) if data else ()
    measured = None
    if data:
        from taskarith.relations.outputs import Setup, open_tasks

        setup = Setup(data, learned, beta, cut, runtime)
        # faults are reported before the weights are compared
        measured = setup, *open_tasks(related, setup, listener, team)
    weights = team.by_first(lambda: relate_weights(related, listener))
    subspaces = outputs = None
    if rank is not None:
        from taskarith.relations.subspaces import relate_subspaces

        subspaces = relate_subspaces(related, rank, listener, team, device_of(team.rank, place))
    verdicts: tuple[Verdict, ...] = ()
    if measured is not None:
        from taskarith.relations.outputs import relate_outputs

        outputs = relate_outputs(*measured)
        verdicts = tuple(_verdict(outputs, pair, beta) for pair in outputs.correlations[DECISIVE])
    remarks = (*related.remarks, *_preflight(weights, outputs))
    relation = Relation(related.names, weights, subspaces, outputs, verdicts, remarks)
    if target is not None:
        record = relation_record(related, data or {}, cut, runtime, {"rank": rank, "beta": beta})
        drawn = None if draw is None else functools.partial(draw, relation)
        team.by_first(lambda: write_relation(relation.to_json(), record, target, overwrite, drawn))
    return relation


def _check(vectors: Sequence[str], data: Mapping[str, str] | None, rank: int | None, beta: float) -> None:
    if len(vectors) < 2:
        raise UsageError(
            "relate needs at least two vectors", "Write, for example: taskarith relate forget.safetensors retain/"
        )
    if data and len(data) != len(vectors):
        raise UsageError(
            f"{len(data)} test sets are given for {len(vectors)} vectors",
            "Give one --data NAME=FILE for each vector, in their order.",
        )
    if not 0 <= beta < 1:
        raise UsageError(f"--beta {beta} is out of range", "Give a number from 0 to below 1.")
    if rank is not None and rank < 1:
        raise UsageError(f"--rank {rank} is out of range", "Use 1 or more.")


def _learned(related: Related, data: Mapping[str, str], cut: TestInputs) -> tuple[bool | None, ...]:
    from taskarith.relations.trained_on import learned_from

    return learned_from(related, data, cut.form)


def _verdict(outputs: OutputRelations, pair: tuple[int, int], beta: float) -> Verdict:
    i, j = pair
    changes, learned = outputs.changes, outputs.learned
    evidence = Evidence(
        (changes[i][i], changes[j][j]), (changes[i][j], changes[j][i]), (learned[i], learned[j]), outputs.together[pair]
    )
    return judge(outputs.names[i], outputs.names[j], outputs.correlations[DECISIVE][pair], beta, evidence)


def _preflight(weights: WeightRelations, outputs: OutputRelations | None) -> list[str]:
    """Remark on what is known to harm merging (DisTaC, arXiv:2508.01148): unequal norms and uncertain models."""
    norms = dict(zip(weights.names, weights.group().norms, strict=True))
    remarks = [f"{name} is zero and has no direction" for name, norm in norms.items() if not norm]
    moving = {name: norm for name, norm in norms.items() if norm}
    if moving and max(moving.values()) > _UNEVEN * min(moving.values()):
        long, short = max(moving, key=moving.__getitem__), min(moving, key=moving.__getitem__)
        factor = moving[long] / moving[short]
        remarks.append(
            f"{long} is {factor:.3g} times as long as {short} and dominates it at equal coefficients "
            f"({long}:{1 / factor:.3g} has the same length)"
        )
    if outputs is not None:
        own = {name: float(outputs.entropies[1 + index, index]) for index, name in enumerate(outputs.names)}
        sure = min(own.values())
        remarks += [
            f"the model of {name} is uncertain on its own task: entropy {entropy:.2f} nats, against {sure:.2f} at best"
            for name, entropy in own.items()
            if entropy > _UNEVEN * sure
        ]
        remarks += [
            f"the forecast for {name} uses {known:g} times its vector, the most that is tried; its loss may fall on"
            for name, known in {removal.task: removal.known for removal in outputs.removals}.items()
            if known == MULTIPLES[-1]
        ]
    return remarks


def _weights_json(weights: WeightRelations, pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    return {
        "tensors": len(weights.tensors),
        "elements": weights.elements,
        "norms": weights.group().norms,
        "all": _group_json(weights.group(), pairs),
        "without embeddings and head": _group_json(weights.without_embeddings(), pairs),
        "kinds": {kind: _group_json(weights.of_kind(kind), pairs) for kind in weights.kinds},
        "layers": {layer: _group_json(weights.of_layer(layer), pairs) for layer in weights.layers},
        "overlaps": {share: [weights.overlaps[share][pair] for pair in pairs] for share in TOP_SHARES},
        "entries that signs and overlaps were counted on": weights.sampled,
        "each tensor": {tensor.name: _group_json(tensor.sums, pairs) for tensor in weights.tensors},
    }


def _group_json(group: Group, pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    measures = ("cosine", "sign_agreement", "interference")
    return {"norms": group.norms} | {name: [getattr(group, name)(*pair) for pair in pairs] for name in measures}
