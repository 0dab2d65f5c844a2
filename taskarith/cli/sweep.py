"""The command `sweep`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from taskarith.cli.options import (
    EDIT,
    AddOption,
    DensityOption,
    MeasurementGroup,
    MethodOption,
    ModelArgument,
    NegateOption,
    OutputOptions,
    OverwriteFlag,
    ProtectOption,
    RankOption,
    ResultsFolderOption,
    RuntimeGroup,
    ScaleOption,
    WeightsOption,
    under,
)
from taskarith.cli.output import show_scores, show_tables
from taskarith.spec import parse_alphas, parse_named_data

__all__ = ["command"]

_data, _edit, _choose, _search = under("Data"), under(EDIT), under("Choose"), under("Search")


def command(
    model: ModelArgument,
    *,
    data: Annotated[
        list[str],
        _data(
            metavar="NAME=SPEC",
            help="A text and its name, repeatable; names that begin with forget are forget sets, all others retain "
            "sets.",
        ),
    ],
    add: AddOption = None,
    negate: NegateOption = None,
    alpha: Annotated[
        str, _edit(metavar="LIST", help="As 0,0.5,1 or 0:2:0.1; 0 is always measured. The bounds of a search.")
    ] = "0:2:0.2",
    scale: ScaleOption = None,
    method: MethodOption = "linear",
    density: DensityOption = None,
    rank: RankOption = None,
    protect: ProtectOption = None,
    weights: WeightsOption = None,
    reference: Annotated[
        str | None,
        _choose(
            metavar="MODEL", help="A model that never knew what is to be forgotten: its loss is the level to reach."
        ),
    ] = None,
    target: Annotated[float | None, _choose(help="Instead: the loss to reach, in nats a token.")] = None,
    budget: Annotated[
        float | None,
        _choose(help="The other rule: forget most while the loss of what is kept rises by at most so many nats."),
    ] = None,
    search: Annotated[int, _search(metavar="N", help="N trials by optuna, for a coefficient of each vector.")] = 0,
    gradient: Annotated[int, _search(metavar="N", help="Instead: N steps of gradient descent.")] = 0,
    by: Annotated[
        list[str] | None,
        _search(
            metavar="layer|module", help="A coefficient for each third of the layers, or kind of module; repeatable."
        ),
    ] = None,
    kl: Annotated[float, _search(help="Weight of the KL divergence on what is kept.")] = 0.0,
    storage: Annotated[
        str | None,
        _search(
            metavar="FILE|URL",
            help="Keep trials, to go on later or in several processes; as trials.jsonl or sqlite:///trials.db.",
        ),
    ] = None,
    measurement: MeasurementGroup,
    output_dir: ResultsFolderOption = None,
    overwrite: OverwriteFlag = False,
    output: OutputOptions,
    runtime: RuntimeGroup,
) -> None:
    """Choose coefficients by a rule, from losses at many of them.

    Example: taskarith sweep tuned --negate v.safetensors --reference base --data forget=A --data retain=B -o runs/sweep

    The model is loaded once. The rule chooses on one half of the samples: the least alpha that reaches the level of the
    reference, or the most forgetting within a budget; the other half says what it is worth. runs/sweep/recipe.yaml
    is what apply --config takes.
    """
    alphas, texts = parse_alphas(alpha), parse_named_data(data)
    from taskarith.merging.methods import parse_method
    from taskarith.report.sweep import plot_sweep, sweep_remarks, sweep_table
    from taskarith.sweeps.sweep import RECIPE, sweep

    with output.console() as console, _trials_kept(storage):
        found = sweep(
            model,
            texts,
            add=add or (),
            negate=negate or (),
            scale=scale or (),
            alphas=alphas,
            search=search,
            gradient=gradient,
            by=by or (),
            kl=kl,
            storage=storage,
            method=parse_method(method, density=density, rank=rank),
            weights=weights,
            protect=protect or (),
            reference=reference,
            target=target,
            budget=budget,
            launched=True,
            measurement=measurement,
            runtime=runtime,
            draw=plot_sweep,
            output_dir=output_dir,
            overwrite=overwrite,
            listener=console,
        )
    show_tables(sweep_table(found), console)
    console.line("")
    console.line("the held-out half:")
    show_scores(found.heldout, console)
    for remark in sweep_remarks(found):
        console.note(remark)
    if output_dir is not None:
        what = f"{RECIPE} (apply --config), " if found.recipe is not None else ""
        console.note(f"{what}results, records and figure are in {output_dir}")
    console.line("nothing recommended" if found.chosen is None else f"recommended: {_values(found.recipe)}")
    console.result(found.to_json())


@contextmanager
def _trials_kept(storage: str | None) -> Generator[None]:
    """Let an interrupted search say that it can go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        if storage is not None:
            error.add_note(f"Finished trials are kept in {storage}: the same command goes on after them.")
        raise


def _values(recipe: object) -> str:
    """Write the coefficients of a recipe in a line."""
    assert isinstance(recipe, dict)  # noqa: S101
    operands = [
        f"{one['coefficient']:+.4g} {Path(one['vector']).name}" + (f" {one['scale']}" if "scale" in one else "")
        for one in recipe["operands"]
    ]
    return f"alpha {recipe['alpha']:g}, {', '.join(operands)}"
