"""The command `sweep`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from taskarith.cli.inputs import check_inputs
from taskarith.cli.options import (
    EDIT,
    MeasurementGroup,
    Merging,
    MergingOptions,
    ModelArgument,
    OutputOptions,
    ResultsGroup,
    RuntimeGroup,
    VectorGroup,
    under,
)
from taskarith.cli.paper import FullFlag, PaperGroup
from taskarith.data.spec import parse_named_data
from taskarith.spec import parse_alphas

__all__ = ["command"]

_data, _edit, _choose, _search = under("Data"), under(EDIT), under("Choose"), under("Search")


def command(
    model: ModelArgument,
    *,
    data: Annotated[
        list[str],
        _data(
            metavar="NAME=SPEC",
            help="A text and its name, repeatable; names starting with forget are forget sets, all others retain sets.",
        ),
    ],
    vectors: VectorGroup,
    alpha: Annotated[
        str,
        _edit(
            metavar="LIST", help="Coefficients (0,0.5,1 or 0:2:0.1), or the bounds of a search; 0 is always measured."
        ),
    ] = "0:2:0.2",
    merging: Annotated[Merging, MergingOptions],
    reference: Annotated[
        str | None,
        _choose(metavar="MODEL", help="A model that never saw the forget sets: its loss on them is the target."),
    ] = None,
    target: Annotated[float | None, _choose(help="Instead of --reference: a loss to reach, in nats per token.")] = None,
    budget: Annotated[
        float | None,
        _choose(
            help="Instead: forget as much as possible while retain losses rise by at most this, in nats per token."
        ),
    ] = None,
    search: Annotated[int, _search(metavar="N", help="N Optuna trials, with one coefficient per vector.")] = 0,
    gradient: Annotated[int, _search(metavar="N", help="Instead of --search: N steps of gradient descent.")] = 0,
    by: Annotated[
        list[str] | None,
        _search(
            metavar="layer|module", help="One coefficient per third of the layers, or per kind of module; repeatable."
        ),
    ] = None,
    kl: Annotated[float, _search(help="Weight of the KL divergence on retain sets.")] = 0.0,
    storage: Annotated[
        str | None,
        _search(
            metavar="FILE|URL",
            help="Store trials, to continue later or share among processes: trials.jsonl or sqlite:///trials.db.",
        ),
    ] = None,
    measurement: MeasurementGroup,
    full: FullFlag = False,
    results: ResultsGroup,
    paper: PaperGroup,
    output: OutputOptions,
    runtime: RuntimeGroup,
) -> None:
    """Choose coefficients by a rule, from losses measured at many.

    Example: taskarith sweep tuned --negate v.safetensors --reference base --data forget=A --data retain=B -o runs/sweep

    The model is loaded once. The rule chooses on one half of the samples: the smallest alpha that reaches the loss of
    the reference, or the most forgetting within a budget. The other half measures the choice.
    Apply it with: taskarith apply --config runs/sweep/recipe.yaml
    """
    alphas, texts = parse_alphas(alpha), parse_named_data(data)
    from taskarith.sweeps.rule_options import make_rule

    make_rule(model, texts, reference, target, budget)
    check_inputs([model, reference], texts.values(), [*vectors.add, *vectors.negate])
    paper.check(output.as_json, results.overwrite, [model, reference or ""], results.output_dir)
    from taskarith.report.report import draw_beside
    from taskarith.report.scores import score_remarks
    from taskarith.report.sweep import plot_sweep, sweep_remarks, sweep_table
    from taskarith.sweeps.sweep import RECIPE, sweep

    with output.console() as console, _trials_kept(storage):
        result = sweep(
            model,
            texts,
            **vars(vectors),
            **merging.keywords(),
            alphas=alphas,
            search=search,
            gradient=gradient,
            by=by or (),
            kl=kl,
            storage=storage,
            reference=reference,
            target=target,
            budget=budget,
            launched=True,
            measurement=measurement,
            runtime=runtime,
            draw=draw_beside(results.output_dir, console, plot_sweep),
            **vars(results),
            listener=console,
        )
    heldout = paper.score_tables(result.heldout, console, full=full, title="the held-out half")
    chosen = "nothing recommended" if result.chosen is None else f"recommended: {_values(result.recipe)}"
    remarks = [*score_remarks(result.heldout), *sweep_remarks(result)]
    paper.show(result, [*sweep_table(result), *heldout], console, lines=[chosen], remarks=remarks)
    paper.write(result, results.overwrite, console)
    if results.output_dir is not None:
        recipe = f"{RECIPE} (apply --config), " if result.recipe is not None else ""
        console.note(f"{recipe}results, records, figure and report.html are in {results.output_dir}")
        if result.recipe is not None:
            console.next("apply", "--config", results.output_dir / RECIPE)
    console.result(result.to_json())


@contextmanager
def _trials_kept(storage: str | None) -> Generator[None]:
    """Note on an interrupt how to continue a search with --storage."""
    try:
        yield
    except KeyboardInterrupt as error:
        if storage is not None:
            error.add_note(f"Finished trials are kept in {storage}; the same command continues after them.")
        raise


def _values(recipe: object) -> str:
    """Write the coefficients of a recipe on one line."""
    assert isinstance(recipe, dict)  # noqa: S101
    operands = [
        f"{operand['coefficient']:+.4g} {Path(operand['vector']).name}"
        + (f" {operand['scale']}" if "scale" in operand else "")
        for operand in recipe["operands"]
    ]
    return f"alpha {recipe['alpha']:g}, {', '.join(operands)}"
