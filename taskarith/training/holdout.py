"""Data that are held out of a training: rows given apart, or a share of the data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from taskarith.data.load import DataSet
from taskarith.data.tokens import Sample, fingerprint_samples
from taskarith.errors import DataError, UsageError
from taskarith.models.load import Base
from taskarith.progress import Listener
from taskarith.training.examples import Example, make_examples
from taskarith.training.settings import TrainingSettings
from taskarith.training.validation import Validation

__all__ = ["check_validation", "hold_out"]


def check_validation(settings: TrainingSettings, validation: Sequence[str]) -> None:
    """Refuse options of a validation that have no effect or contradict each other.

    :param validation: Validation sets.
    :raises UsageError: They do.
    """
    share = settings.validation_share
    if not validation and share is None:
        for name in ("validation_steps", "patience"):
            if getattr(settings, name) is not None:
                option = "--" + name.replace("_", "-")
                raise UsageError(
                    f"{option} is set, but there are no validation data",
                    "Give some with --validation FILE, or split some off with --validation-share 0.1.",
                )
        return
    if validation and share is not None:
        raise UsageError(
            "--validation and --validation-share are both given", "Validate on one of them: leave out the other."
        )
    if share is not None and settings.stride is not None:
        raise UsageError(
            "--stride makes blocks that overlap, and --validation-share would put them on both sides",
            "Leave out one of the two, or give validation data apart, with --validation FILE.",
        )
    if not settings.learns:
        raise UsageError(
            f"validation is of learning, and --objective {settings.objective} is to forget",
            "Leave it out; taskarith eval measures what was forgotten and what was kept.",
        )
    if settings.until_loss is not None:
        raise UsageError(
            "--until-loss publishes the weights of the last step, validation those of the best one",
            "Leave out one of the two; --patience also ends a training early.",
        )


def hold_out(
    base: Base,
    sets: Sequence[DataSet],
    examples: Sequence[Example],
    settings: TrainingSettings,
    record: dict[str, Any],
    listener: Listener,
) -> tuple[list[Example], Validation | None]:
    """Return the examples to train on, and what to validate on, if anything.

    :param base: The model to train.
    :param sets: Validation sets.
    :param examples: All examples of the data and the retain sets.
    :param settings: Share to split off, and seed.
    :param record: Of the data, for provenance; receives what is validated on.
    :param listener: Receives notes on data that cannot be learned, and on rows on both sides.
    :raises DataError: All validation rows are trained on, a share is too small or too large, or a row does not fit.
    """
    if sets:
        held, parts = make_examples(base, sets, (), replace(settings, stride=None), listener)  # as eval cuts them
        known = {entry["fingerprint"] for part in ("data", "retain") for entry in record[part]}
        if known.issuperset(data.fingerprint for data in sets):  # whose blocks may be others
            raise _nothing_apart(len(held))
        trained, record["validation"] = list(examples), parts["data"]
    elif settings.validation_share is not None:
        trained, held = _split(examples, settings.validation_share, settings.seed)
        record["validation"] = [{"share": settings.validation_share, **_describe([each.sample for each in held])}]
    else:
        return list(examples), None
    _check_apart(trained, held, listener)
    pad_id = base.tokenizer.pad_token_id or 0  # padding is masked
    return trained, Validation(held, pad_id, settings.validation_steps, settings.patience)


def _split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split a share of the rows and blocks of the data off; the retain sets stay whole."""
    numbers = [number for number, example in enumerate(examples) if not example.retained]
    count = round(share * len(numbers))
    if not 0 < count < len(numbers):
        raise DataError(
            f"--validation-share {share:g} of {len(numbers)} rows or blocks leaves none to "
            f"{'train on' if count else 'validate on'}",
            "Choose another share, give more data, or give validation data apart, with --validation FILE.",
        )
    drawn = set(random.Random(f"validation {seed}").sample(numbers, count))  # noqa: S311  (it is to be repeated)
    trained = [example for number, example in enumerate(examples) if number not in drawn]
    return trained, [examples[number] for number in sorted(drawn)]


def _describe(samples: Sequence[Sample]) -> dict[str, Any]:
    tokens = sum(len(sample.input_ids) for sample in samples)
    return {"token_fingerprint": fingerprint_samples(samples), "samples": len(samples), "tokens": tokens}


def _check_apart(trained: Sequence[Example], held: Sequence[Example], listener: Listener) -> None:
    """Refuse validation data that are all trained on, and note how many are."""
    seen = {(example.sample.input_ids, example.sample.prompt_length) for example in trained}
    both = sum((example.sample.input_ids, example.sample.prompt_length) in seen for example in held)
    if both == len(held):
        raise _nothing_apart(both)
    if both:
        listener.note(f"{both} of the {len(held)} rows to validate on are also trained on")


def _nothing_apart(rows: int) -> DataError:
    return DataError(
        f"the validation data validate nothing: all of their {rows} rows are also trained on",
        "Give --validation rows that are not trained on, or split some off with --validation-share 0.1.",
    )
