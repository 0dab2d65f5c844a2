"""A search for coefficients by Optuna's tree-structured Parzen estimator, resumable and shared by several processes.

Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011), as in Optuna's ``TPESampler``.
"""

from __future__ import annotations

import os
import warnings
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
"""First bytes of Optuna's journals."""

_FIRST = (0.4, 0.5, 0.6, 0.8, 1.0)  # shares of the range to start with: plain negation, for comparison


def load_optuna() -> Any:
    """Import Optuna and silence its log.

    :raises UsageError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "a search needs Optuna, which is not installed", "Install the extra: pip install 'taskarith[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def try_coefficients(
    tester: TrialModel,
    trials: int,
    *,
    seed: int,
    storage: str | None,
    name: str,
    on_trial: Callable[[int, float], None],
) -> list[Trial]:
    """Try coefficients until enough trials are finished, including those of earlier runs and other processes.

    A trial depends on the seed, its number and the trials before it, so an interrupted search continues as it would
    have.

    :param tester: Tries coefficients.
    :param trials: Number of trials.
    :param storage: A database URL, or a file for Optuna's journal; None to store nothing.
    :param name: Name of the study; trials of other studies are ignored.
    :param on_trial: Receives the number of finished trials and the lowest objective so far.
    :return: All finished trials whose losses are finite.
    :raises OutputError: The storage cannot be used.
    """
    optuna = load_optuna()
    study = open_study(optuna, storage, name)
    names, space = tester.space.names, tester.space
    for share in _FIRST if not study.trials else ():
        first = space.start(space.low + share * (space.high - space.low))
        study.enqueue_trial(dict(zip(names, first, strict=True)), skip_if_exists=True)
    states = optuna.trial.TrialState
    while (done := sum(trial.state.is_finished() for trial in study.trials)) < trials:
        begun = sum(trial.state != states.WAITING for trial in study.trials)
        with warnings.catch_warnings():  # before 5.0 it called this experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = optuna.samplers.TPESampler(seed=seed + begun, multivariate=True)
        trial = study.ask({name: optuna.distributions.FloatDistribution(space.low, space.high) for name in names})
        try:
            point = tester.attempt([trial.params[name] for name in names]).point
        except CheckpointError:  # a loss is not finite: these coefficients fail
            study.tell(trial, state=states.FAIL)
            continue
        trial.set_user_attr("losses", pack(point))
        study.tell(trial, tester.objective(point))
        on_trial(done + 1, study.best_value)
    return finished_trials(optuna, study, names)


def finished_trials(optuna: Any, study: optuna.Study, names: Sequence[str]) -> list[Trial]:
    """Return the finished trials of a study, which may be someone else's.

    :raises OutputError: They are not trials of this kind of search.
    """
    try:
        complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        values = [[float(trial.params[key]) for key in names] for trial in complete]
        points = [unpack(trial.user_attrs["losses"]) for trial in complete]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise OutputError(
            f"the trials of study {study.study_name} are not from this kind of search: {error!r}",
            "Give another file or database as --storage.",
        ) from error
    return [Trial(tuple(coefficients), point) for coefficients, point in zip(values, points, strict=True)]


def _check_journal(path: Path) -> None:
    """Refuse a file that is not a journal: Optuna would take an unreadable last line for its own, and append.

    :raises ValueError: The file is not a journal.
    """
    with open_regular(path) as file:  # Optuna would wait for a pipe forever
        start = file.read(len(_JOURNAL))
    if start and start != _JOURNAL:
        raise ValueError("the file was not written by Optuna and is kept as it is")


def check_storage(storage: str | None) -> None:
    """Check that Optuna can use a storage, before anything is measured.

    :raises OutputError: The storage cannot be used.
    """
    optuna = load_optuna()
    with _storage_errors(storage):
        _open_storage(optuna, storage)


def _open_storage(optuna: Any, storage: str | None) -> Any:
    """Return Optuna's storage object."""
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
    except Exception as error:  # databases raise all kinds of exceptions
        reason = str(error).strip().partition(chr(10))[0] or type(error).__name__
        raise OutputError(
            f"cannot store trials in {storage}: {reason}",
            "Give a file, or a database as in --storage sqlite:///trials.db",
        ) from error


def open_study(optuna: Any, storage: str | None, name: str) -> optuna.Study:
    """Open or create a study.

    :param storage: As in ``try_coefficients``.
    :param name: Name of the study.
    :raises OutputError: The storage cannot be used.
    """
    with _storage_errors(storage):
        opened = _open_storage(optuna, storage)
        study = optuna.create_study(storage=opened, study_name=name, load_if_exists=True)
        study.get_trials()  # reads everything here, where any error is handled
        return study
