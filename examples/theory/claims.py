"""The table: each claim, what the paper predicts, what was measured, and whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from examples.theory.compression import Rows
from examples.theory.findings import Findings
from examples.theory.outside import LOW_THRESHOLD, compare, predicted
from examples.theory.regimes import ACCURATE, TOLERANCE, beta

__all__ = ["Claim", "claims", "markdown"]


@dataclass(frozen=True)
class Claim:
    """A row of the table.

    :param holds: "yes", "partly" or "no".
    """

    name: str
    predicted: str
    measured: str
    holds: str


def claims(found: Findings) -> list[Claim]:
    """Judge all claims."""
    return [*_addition(found), *_negation(found), *_outside(found), *_rank(found), *_rows(found), *_other(found)]


def markdown(rows: Sequence[Claim]) -> str:
    """Return the table."""
    lines = ["| claim | predicted | measured | holds |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.predicted} | {row.measured} | {row.holds} |" for row in rows]
    return "\n".join(lines)


def _addition(found: Findings) -> list[Claim]:
    aligned = [r for r in found.regimes if r.alpha >= 0]
    against = [r for r in found.regimes if r.alpha < 0]
    alphas = np.array([r.alpha for r in aligned for _ in r.addition])
    least = np.array([value for r in aligned for value in r.addition])
    excess = least - (1 - alphas)
    expected = (1 - TOLERANCE) / float(np.mean(found.margin)) - alphas
    inside = least > 0  # at 0 the grid ends: a threshold there says nothing about the slope
    slope, intercept = np.polyfit(alphas[inside], least[inside], 1)
    above = min(value for r in aligned for value in r.above)
    lost = min(value for r in against for value in r.best_loss)
    accurate = sum(np.isfinite(r.by_criterion["accuracy"]).all() for r in against)
    turned = [r.alpha for r in against if np.isfinite(r.mirrored).any()]
    highest = max((v for r in against for v in r.mirrored if np.isfinite(v)), default=float("nan"))
    return [
        Claim(
            "C1, theorem 1: enough",
            "α ≥ 0: every λ ≥ 1 - α + β learns both",
            f"largest excess of the threshold over 1 - α: {beta(found.regimes):.3f}; of the λ from the threshold to "
            f"{found.lambdas[-1]:g}, {100 * above:.0f}% learn both",
            "yes" if beta(found.regimes) < 0.1 and above == 1 else "no",
        ),
        Claim(
            "C1, theorem 1: threshold",
            "least λ = 1 - α + β, β small",
            f"least λ = {intercept:.2f} {slope:+.2f} α; "
            f"β̂ = least λ - (1 - α) from {excess.min():+.2f} to {excess.max():+.2f}; "
            f"least λ - ({1 - TOLERANCE:g}/g - α), g the trained margin, from {(least - expected)[inside].min():+.2f} "
            f"to {(least - expected)[inside].max():+.2f}; "
            f"{100 * np.mean(found.leak):.0f}% of ‖ΔV‖ lies in irrelevant patterns",
            "yes" if abs(slope + 1) < 0.1 and abs(excess).max() < 0.2 else "no",
        ),
        Claim(
            "C1, theorem 1: contradictory",
            "α < 0: no λ learns both",
            f"λ ≥ 0: worse loss at the best λ at least {lost:.2f}; by accuracy ≥ {ACCURATE} some λ serves both at "
            f"{accurate} of {len(against)} α"
            + (f"; some λ ≤ {highest:g} serve both at α = {', '.join(f'{a:g}' for a in turned)}" if turned else ""),
            "no" if lost <= TOLERANCE else "partly" if turned or accurate else "yes",
        ),
    ]


def _negation(found: Findings) -> list[Claim]:
    rows = []
    for regime in found.regimes:
        low, high = np.array(regime.negation).T
        works = np.isfinite(low).all()
        measured = f"{low.mean():.2f} ≤ λ ≤ {high.mean():.2f}" if works else "no λ"
        accuracy = np.array(regime.by_accuracy)
        by_accuracy = (
            f"{accuracy[:, 0].mean():.2f} … {accuracy[:, 1].mean():.2f}" if np.isfinite(accuracy).all() else "none"
        )
        measured += f" (by accuracy: {by_accuracy})"
        if regime.alpha == 0:
            reaches = low.max() <= found.lambdas[0]
            rows.append(Claim("C1, theorem 2 (A), α = 0", "every λ ≤ 0", measured, _verdict(works, reaches)))
        elif regime.alpha < 0:
            kept = float(np.mean(regime.kept))
            grid_ends = kept <= found.lambdas[0]
            measured += f"; T1 kept down to {kept:.2f}" + (
                ", the grid's end" if grid_ends else f" = {-kept * regime.alpha**2:.2f}·(-α⁻²)"
            )
            name = f"C1, theorem 2 (B), α = {regime.alpha:g}"
            expected = f"-Θ(α⁻²) ≤ λ ≤ U, U just below 0; -α⁻² = {-(regime.alpha**-2):.2f}"
            rows.append(Claim(name, expected, measured, _verdict(works, works and -low.max() * regime.alpha**2 >= 1)))
        else:
            small = regime.alpha <= 0.2
            expected = "some λ, the alignment is small" if small else "no λ"
            right = works == small
            rows.append(Claim(f"C1, theorem 2 (C), α = {regime.alpha:g}", expected, measured, _verdict(right, right)))
    return rows


def _outside(found: Findings) -> list[Claim]:
    rows = []
    value = beta(found.regimes)
    for region in found.regions:
        name = f"C2, γ = ({region.gamma[0]:g}, {region.gamma[1]:g})"
        letter = compare(predicted(region.gamma, region.axis, 1.0, value), region.learned)
        low = compare(predicted(region.gamma, region.axis, LOW_THRESHOLD), region.learned)
        accurate = compare(predicted(region.gamma, region.axis, LOW_THRESHOLD), region.accurate)
        if region.least is None:
            measured = (
                f"loss ≤ {TOLERANCE} at {100 * letter.measured:.0f}% of the grid, "
                f"accuracy ≥ {ACCURATE} at {100 * accurate.measured:.0f}%"
            )
            rows.append(
                Claim(
                    name,
                    "no λ: the programme has no solution",
                    measured,
                    _verdict(letter.measured == 0, accurate.measured == 0),
                )
            )
            continue
        rows.append(
            Claim(
                name + ", to the letter",
                f"both sums ≥ 1 + c ⇒ learned; least max\\|λ\\| at ({region.least[0]:.2f}, {region.least[1]:.2f})",
                f"{100 * letter.precision:.0f}% of the promised points are learned, {100 * letter.recall:.0f}% of "
                f"the learned were promised, agreement {100 * letter.agreement:.0f}%; "
                f"loss at the least {max(region.least_loss):.3f}",
                _verdict(letter.precision == 1 and max(region.least_loss) <= TOLERANCE, True),
            )
        )
        rows.append(
            Claim(
                name + f", threshold {LOW_THRESHOLD}",
                f"both sums ≥ {LOW_THRESHOLD} ⇒ learned",
                f"{100 * low.precision:.0f}% of the promised points are learned, {100 * low.recall:.0f}% of the "
                f"learned were promised; with accuracy ≥ {ACCURATE}: {100 * accurate.precision:.0f}% and "
                f"{100 * accurate.recall:.0f}%",
                _verdict(accurate.precision >= 0.99, low.precision >= 0.99),
            )
        )
    return rows


def _rank(found: Findings) -> list[Claim]:
    worst_loss, worst_accuracy = _largest_change(found, "rank 1")
    attention, values = (np.array(found.rank_errors[name]) for name in ("attention", "values"))
    return [
        Claim(
            "C3, rank-1 ΔW and ΔV",
            "keep the results",
            f"what is left out: {attention.mean():.2f} of ‖ΔW‖, {values.mean():.2f} of ‖ΔV‖; "
            f"over {len(found.checks['whole'])} edits "
            f"the loss changes by at most {worst_loss:.3f}, the accuracy by {worst_accuracy:.3f}",
            _verdict(worst_loss <= TOLERANCE, True),
        )
    ]


def _rows(found: Findings) -> list[Claim]:
    rows = found.rows
    pruned, _ = _largest_change(found, "small rows pruned")
    at_random, _ = _largest_change(found, "as many random rows pruned")
    largest, _ = _largest_change(found, "as many of the largest rows pruned")
    odd = found.odd_rows
    return [
        Claim(
            "C4, row norms of ΔV",
            "two groups",
            f"{_group(rows)}; {100 * found.balanced:.0f}% of that group are neurons whose a sum to 0 over the "
            f"positions. With {found.odd_tokens} positions, where none can: {_group(odd)}",
            _verdict(min(rows.gap) > 1.5, min(odd.gap) > 1.5),
        ),
        Claim(
            "C4, pruning the lower group",
            "free",
            f"the loss changes by at most {pruned:.3f}; as many random rows: {at_random:.3f}; "
            f"as many of the largest: {largest:.3f}",
            _verdict(pruned <= TOLERANCE / 2, pruned < at_random < largest),
        ),
    ]


def _other(found: Findings) -> list[Claim]:
    start, end = np.mean(found.history.mass[0]), np.mean(found.history.mass[-1])
    return [
        Claim(
            "attention on the label's tokens",
            "grows towards 1 in training",
            f"{start:.2f} → {end:.2f}",
            _verdict(end > 0.9, True),
        ),
        Claim(
            "the edit by `taskarith extract` and `apply`",
            "the same bits as base + Σ λτ rounded once",
            "the same" if found.same_bits else "others",
            _verdict(found.same_bits, True),
        ),
    ]


def _largest_change(found: Findings, name: str) -> tuple[float, float]:
    """Return the largest changes of the loss and of the accuracy over edits, tasks and seeds."""
    both = [
        np.abs(np.array(found.checks[name][title]) - np.array(found.checks["whole"][title])).max((0, 2))
        for title in found.checks["whole"]
    ]
    loss, accuracy = np.max(both, axis=0)
    return float(loss), float(accuracy)


def _group(rows: Rows) -> str:
    return (
        f"{100 * np.mean(rows.small):.0f}% of the rows, {100 * np.mean(rows.energy):.2g}% of ‖ΔV‖², are below a gap "
        f"of a factor of {min(rows.gap):.1f} … {max(rows.gap):.1f}"
    )


def _verdict(mostly: object, wholly: object) -> str:
    return ("yes" if wholly else "partly") if mostly else "no"
