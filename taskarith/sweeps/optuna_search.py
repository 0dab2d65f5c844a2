"""A search for coefficients by optuna: tree-structured Parzen estimators, resumable, shared by several processes.

Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011), as optuna's ``TPESampler`` has it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskarith.errors import CheckpointError, OutputError, UsageError
from taskarith.sweeps.trial import Trial, TrialModel, pack, unpack
from taskarith.untrusted import open_regular

if TYPE_CHECKING:
    import optuna

__all__ = ["check_storage", "finished_trials", "load_optuna", "open_study", "try_coefficients"]

_JOURNAL = b'{"op_code":'
"""How the journals of optuna begin."""

_FIRST = (0.4, 0.5, 0.6, 0.8, 1.0)  # shares of the range: plain negation, for a start and to compare with


def load_optuna() -> Any:
    """Return optuna, which does not say what it does.

    :raises UsageError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "a search needs optuna, which is not installed", "Install the extra: pip install 'taskarith[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def try_coefficients(
    bench: TrialModel, trials: int, *, seed: int, storage: str | None, name: str, on_trial: Callable[[int, float], None]
) -> list[Trial]:
    """Try coefficients until so many trials are finished, those of earlier runs and other processes included.

    What a trial tries depends on the seed, its number and the trials before it, so a search that was interrupted
    between two trials goes on as it would have.

    :param bench: Where they are tried.
    :param trials: How many.
    :param storage: A database's URL, or a file that optuna's journal is kept in; None keeps nothing.
    :param name: Of the study: trials of another name are others.
    :param on_trial: Told how many are finished, and the least objective so far.
    :return: All finished trials whose losses are finite.
    :raises OutputError: The storage cannot be used.
    """
    optuna = load_optuna()
    study = open_study(optuna, storage, name)
    names, space = bench.space.names, bench.space
    for share in _FIRST if not study.trials else ():
        first = space.start(space.low + share * (space.high - space.low))
        study.enqueue_trial(dict(zip(names, first, strict=True)), skip_if_exists=True)
    states = optuna.trial.TrialState
    while (done := sum(trial.state.is_finished() for trial in study.trials)) < trials:
        begun = sum(trial.state != states.WAITING for trial in study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=seed + begun, multivariate=True)
        trial = study.ask({one: optuna.distributions.FloatDistribution(space.low, space.high) for one in names})
        try:
            point = bench.attempt([trial.params[one] for one in names]).point
        except CheckpointError:  # a loss that is not finite: these coefficients are no good
            study.tell(trial, state=states.FAIL)
            continue
        trial.set_user_attr("losses", pack(point))
        study.tell(trial, bench.objective(point))
        on_trial(done + 1, study.best_value)
    return finished_trials(optuna, study, names)


def finished_trials(optuna: Any, study: optuna.Study, names: Sequence[str]) -> list[Trial]:
    """Return the finished trials of a study, which others may have written.

    :raises OutputError: They are not of such a search.
    """
    try:
        complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        values = [[float(one.params[key]) for key in names] for one in complete]
        points = [unpack(one.user_attrs["losses"]) for one in complete]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise OutputError(
            f"the trials of study {study.study_name} are not those of such a search: {error!r}",
            "Name another file to keep the trials in.",
        ) from error
    return [Trial(tuple(one), point) for one, point in zip(values, points, strict=True)]


def _check_journal(path: Path) -> None:
    """Refuse a file that is not a journal: optuna takes a last line that it cannot read for its own, and appends.

    :raises ValueError: It is another file.
    """
    with open_regular(path) as file:  # optuna would wait for a pipe for ever
        start = file.read(len(_JOURNAL))
    if start and start != _JOURNAL:
        raise ValueError("there is a file that optuna did not write, which is kept as it is")


def check_storage(storage: str | None) -> None:
    """See that optuna can keep trials in a storage, before anything is measured.

    :raises OutputError: The storage cannot be used.
    """
    optuna = load_optuna()
    with _storage_errors(storage):
        _open_storage(optuna, storage)


def _open_storage(optuna: Any, storage: str | None) -> Any:
    """Return what optuna keeps trials in."""
    if storage is None or "://" in storage:
        return storage if storage is None else optuna.storages.get_storage(storage)
    if os.path.lexists(storage):
        _check_journal(Path(storage))
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))


@contextmanager
def _storage_errors(storage: str | None) -> Generator[None]:
    try:
        yield
    except Exception as error:  # of as many kinds as there are databases
        what = str(error).strip().partition(chr(10))[0] or type(error).__name__
        raise OutputError(
            f"cannot keep trials in {storage}: {what}",
            "Name a file, or a database as in --storage sqlite:///trials.db",
        ) from error


def open_study(optuna: Any, storage: str | None, name: str) -> optuna.Study:
    """Open a study, or begin it.

    :param storage: As in ``try_coefficients``.
    :param name: Of the study.
    :raises OutputError: The storage cannot be used.
    """
    with _storage_errors(storage):
        kept = _open_storage(optuna, storage)
        study = optuna.create_study(storage=kept, study_name=name, load_if_exists=True)
        study.get_trials()  # all that others may have written is read here, whatever optuna raises over it
        return study
