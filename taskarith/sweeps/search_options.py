"""Options of what a sweep tries: alphas, or a search for coefficients between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from taskarith.errors import UsageError
from taskarith.merging.methods import Method
from taskarith.sweeps.optuna_search import load_optuna

__all__ = ["SearchOptions"]


@dataclass(frozen=True)
class SearchOptions:
    """The alphas to try, or the options of a search between the smallest and the largest of them.

    :param trials: Trials of a search by Optuna; 0 for none.
    :param steps: Steps of a search by gradient descent; 0 for none.
    :param by: How the model is divided; see ``find_parts``.
    :param alphas: Factors of all coefficients, or the bounds of a search.
    :param kl: Weight of the KL divergence on retain sets.
    :param storage: File or database of the trials.
    :param seed: Seed of the search.
    """

    trials: int
    steps: int
    by: tuple[str, ...]
    alphas: tuple[float, ...]
    kl: float
    storage: str | None
    seed: int

    @property
    def is_search(self) -> bool:
        """Whether coefficients are searched for."""
        return bool(self.trials or self.steps)

    @property
    def storage_file(self) -> str:
        """The file of the trials; empty without one."""
        path = (self.storage or "").removeprefix("sqlite:///")
        return "" if not path or "://" in path else str(Path(path).absolute())

    def check(self, method: Method, *, has_aim: bool) -> None:
        """Check the options before anything is measured.

        :param method: Merge method.
        :param has_aim: Whether there is a rule.
        :raises UsageError: A value is out of range, options contradict each other, or optuna is not installed.
        """
        if not self.alphas or not all(map(math.isfinite, self.alphas)) or len(set(self.alphas)) < len(self.alphas):
            raise UsageError(f"cannot sweep alphas {list(self.alphas)}", "Give different finite numbers, as in 0,0.5,1")
        if min(self.trials, self.steps) < 0 or (self.trials and self.steps):
            raise UsageError(
                "--search and --gradient cannot be combined or negative",
                "Give one of --search N and --gradient N.",
            )
        if not math.isfinite(self.kl) or self.kl < 0:
            raise UsageError(f"--kl {self.kl} is out of range", "Give a weight of 0 or more.")
        if self.is_search:
            self._check_search(method, has_aim=has_aim)
        elif self.by or self.kl or self.storage:
            raise UsageError("--by, --kl and --storage need a search", "Add --search N, or leave them out.")

    def _check_search(self, method: Method, *, has_aim: bool) -> None:
        if not has_aim:
            raise UsageError("a search needs a rule", "Give --reference MODEL, --target or --budget.")
        if len(self.alphas) < 2:
            raise UsageError("a search needs two bounds", "Give them as --alpha 0,2")
        if self.steps and (self.storage or not method.is_linear):
            raise UsageError(
                "--gradient cannot be combined with --storage or --method", "Leave them out, or use --search N."
            )
        if self.trials:
            load_optuna()
