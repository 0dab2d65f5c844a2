"""Everything that is measured, in the order in which it is: the only module that knows all the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from examples.theory.compression import (
    Change,
    Outcome,
    Rows,
    check_vectors,
    draw_inputs,
    low_rank,
    prune,
    rank_error,
    row_norms,
    split_rows,
)
from examples.theory.data import Setting
from examples.theory.files import same_bits
from examples.theory.model import Transformer, edit, measure
from examples.theory.outside import Region, measure_region
from examples.theory.plan import Plan
from examples.theory.regimes import Curves, Regime, beta, irrelevant_share, judge, sweep
from examples.theory.world import World, build_world

__all__ = ["Findings", "History", "find"]


@dataclass(frozen=True)
class History:
    """Of the training of the first task: lists by logged step, then by seed."""

    step: list[int]
    loss: list[list[float]]
    mass: list[list[float]]


@dataclass(frozen=True)
class Findings:
    """All results.

    :param curves: By alpha.
    :param margin: Mean of label times output of the fine-tuned model on its own task, one a seed.
    :param leak: Share of the norm of Delta V that lies in irrelevant patterns, one a seed.
    :param rank_errors: "attention" and "values": what rank 1 leaves out of the first vector, one a seed.
    :param checks: What was done to the vectors, to the edit, to the outcome for each task.
    :param norms: Row norms of Delta V, of the first vector of the first seed.
    :param rows: Groups of rows of the first vectors.
    :param odd_rows: The same with one more position, so that no neuron's signs balance.
    :param balanced: Share of the lower group whose signs sum to 0 over the positions.
    :param same_bits: Whether the verbs of taskarith make the same edit.
    """

    setting: Setting
    seeds: int
    lambdas: Sequence[float]
    curves: Mapping[float, Curves]
    regimes: list[Regime]
    margin: list[float]
    leak: list[float]
    regions: list[Region]
    rank_errors: Mapping[str, list[float]]
    checks: Mapping[str, Mapping[str, list[Outcome]]]
    norms: list[float]
    rows: Rows
    odd_rows: Rows
    odd_tokens: int
    balanced: float
    history: History
    same_bits: bool


def find(plan: Plan, seeds: int, setting: Setting, say: Callable[[str], None] = lambda _: None) -> Findings:
    """Train and measure everything.

    :param say: Is told what begins.
    """
    say(f"training {seeds} x {len(plan.alphas) + 1} models")
    world = build_world(setting, plan.alphas, seeds)
    say("C1: both tasks over lambda")
    curves = sweep(world, plan.lambdas, plan.samples)
    regimes = [judge(alpha, curve) for alpha, curve in curves.items()]
    say("C2: out of domain")
    regions = [measure_region(world, gamma, plan.axis, plan.samples, beta(regimes)) for gamma in plan.gammas]
    say("C3, C4: rank 1 and pruned rows")
    rows = split_rows(world.first)
    odd_tokens = setting.tokens + 1 - setting.tokens % 2
    odd = build_world(replace(setting, tokens=odd_tokens), (), seeds)
    balanced = world.base.signs.sum(1).abs() < 0.5 / setting.width**0.5
    inputs = draw_inputs(world, plan.samples)
    return Findings(
        setting=setting,
        seeds=seeds,
        lambdas=plan.lambdas,
        curves=curves,
        regimes=regimes,
        margin=_margin(world, plan.samples),
        leak=irrelevant_share(world.first, world.space.irrelevant).tolist(),
        regions=regions,
        rank_errors={
            "attention": rank_error(world.first.attention).tolist(),
            "values": rank_error(world.first.values).tolist(),
        },
        checks={name: check_vectors(world, change, inputs) for name, change in _changes(seeds).items()},
        norms=row_norms(world.first)[0].tolist(),
        rows=rows,
        odd_rows=split_rows(odd.first),
        odd_tokens=odd_tokens,
        balanced=float((balanced & rows.mask).sum() / rows.mask.sum()),
        history=History(
            [entry.step for entry in world.history],
            [entry.loss.tolist() for entry in world.history],
            [entry.mass.tolist() for entry in world.history],
        ),
        same_bits=same_bits(world),
    )


def _changes(seeds: int) -> dict[str, Change]:
    """Return what is done to vectors; the rows that go are chosen anew for each vector, the random ones are not."""
    order = torch.Generator().manual_seed(seeds)

    def without(choose: Callable[[Transformer, torch.Tensor], torch.Tensor]) -> Change:
        return lambda vector: prune(vector, choose(vector, split_rows(vector).mask))

    def at_random(_: Transformer, mask: torch.Tensor) -> torch.Tensor:
        return mask.gather(1, torch.rand(mask.shape, generator=order).argsort(1))

    def largest(vector: Transformer, mask: torch.Tensor) -> torch.Tensor:
        rank = row_norms(vector).argsort(1, descending=True).argsort(1)
        return rank < mask.sum(1, keepdim=True)

    return {
        "whole": lambda vector: vector,
        "rank 1": low_rank,
        "small rows pruned": without(lambda _, mask: mask),
        "as many random rows pruned": without(at_random),
        "as many of the largest rows pruned": without(largest),
    }


@torch.no_grad()
def _margin(world: World, samples: int) -> list[float]:
    tuned = edit(world.base, [(1.0, world.first)])
    return measure(tuned, world.fresh(world.space.axes[:, 0], samples)).margin.tolist()
