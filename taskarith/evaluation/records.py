"""Per-sample records and the numbers made from them: one way from records to scores, with or without a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from taskarith.errors import DataError
from taskarith.evaluation.rouge import rouge_l

__all__ = [
    "CONVENTIONS",
    "Evaluation",
    "Record",
    "TextScore",
    "answer_record",
    "continuation_record",
    "divergence_record",
    "loss_record",
    "plain_scores",
    "scores_from_records",
]

Record = dict[str, Any]
"""One line of ``records.jsonl``. Every record has ``kind``, ``model`` (a row of the tables), ``text`` (the name of a
data set) and ``sample`` (an id that occurs once for each model, text and kind). By kind there are also:

``loss``, a teacher-forced pass over one sample
    ``nll`` (sum in nats), ``tokens``, ``correct`` (first choices that are right); and for numbers that need every token
    ``token_losses`` (float32, in order), ``hits`` (a string of ``1`` and ``0``: is the first choice right?) and
    ``z_scores`` (float32, see ``metrics.membership.min_k_plus_score``); and ``zlib_bytes`` (the text compressed).
``continuation``, a greedy one
    ``prompt``, ``reference``, ``continuation``, and their own ROUGE-L for whoever reads the file.
``answer``, a question with right and wrong answers
    mean token losses: ``loss`` of the right answer, ``paraphrased_loss`` of it in other words, ``perturbed_losses``, a
    list, of the wrong ones. The generated answer is a ``continuation`` with the same text and sample.
``divergence``, next-token distributions beside those of another model, named in ``reference``
    ``kl`` (sum over tokens of KL(reference || model) in nats), ``agreed`` (tokens with the same first choice),
    ``tokens``. Ids occur once for each reference.
"""

CONVENTIONS = {
    "loss": "nats; the mean over all scored tokens of a text, teacher-forced; lower is better",
    "perplexity": "exp(loss); null where that is beyond a float64",
    "accuracy": "share of scored tokens that are the model's first choice, teacher-forced",
    "rouge_l_f1": "ROUGE-L F1 of greedy continuations, mean over prompts; rouge_score's words, no stemming",
    "rouge_l_recall": "ROUGE-L recall of greedy continuations, mean over prompts; rouge_score's words, no stemming",
    "verbatim": "share of greedy continuations that equal the reference word for word; case and punctuation count",
}
"""What each number is, for whoever compares it with another tool's."""


@dataclass(frozen=True)
class TextScore:
    """The scores of one model on one text; ``CONVENTIONS`` says what each is.

    The three of continuations are None where there are no prompts. ``perplexity`` is infinite where it overflows.
    """

    loss: float
    perplexity: float
    accuracy: float
    rouge_l_f1: float | None
    rouge_l_recall: float | None
    verbatim: float | None
    tokens: int
    prompts: int


@dataclass(frozen=True)
class Evaluation:
    """Scores of models on texts, and the records they were made from.

    :param models: Names of the models, or of one model at each alpha, in the order given; the first is the reference.
    :param texts: Names of the texts in the order given.
    :param scores: Model, then text, to score.
    :param records: Of all models, as in ``records.jsonl``.
    """

    models: tuple[str, ...]
    texts: tuple[str, ...]
    scores: dict[str, dict[str, TextScore]]
    records: list[Record] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the records as plain values of JSON; an infinite perplexity is null."""
        scores = {
            model: plain_scores({t: self.scores[model][t] for t in self.texts if t in self.scores[model]})
            for model in self.models
        }
        return {
            "models": list(self.models),
            "texts": list(self.texts),
            "scores": scores,
            "conventions": dict(CONVENTIONS),
        }


def loss_record(
    model: str,
    text: str,
    sample: str,
    nll: float,
    tokens: int,
    correct: int,
    *,
    token_losses: ArrayLike | None = None,
    hits: ArrayLike | None = None,
    z_scores: ArrayLike | None = None,
    zlib_bytes: int | None = None,
) -> Record:
    """Record a teacher-forced pass over one sample; what is not given is not in the record.

    :param nll: Sum of the negative log-likelihoods of the scored tokens, in nats.
    :param tokens: Number of scored tokens.
    :param correct: How many of them are the model's first choice.
    :param token_losses: Loss of each scored token, float32 of shape (tokens,); kept exactly, in the fewest digits.
    :param hits: Whether each is the first choice, bool of shape (tokens,).
    :param z_scores: Standardised log-probability of each, float32 of shape (tokens,).
    :param zlib_bytes: ``metrics.membership.zlib_bytes`` of the sample's text.
    """
    record: Record = {
        "kind": "loss",
        "model": model,
        "text": text,
        "sample": sample,
        "nll": nll,
        "tokens": tokens,
        "correct": correct,
    }
    if token_losses is not None:
        record["token_losses"] = _float32s(token_losses)
    if hits is not None:
        record["hits"] = "".join("1" if hit else "0" for hit in np.asarray(hits, dtype=np.bool_))
    if z_scores is not None:
        record["z_scores"] = _float32s(z_scores)
    if zlib_bytes is not None:
        record["zlib_bytes"] = zlib_bytes
    return record


def continuation_record(model: str, text: str, sample: str, prompt: str, reference: str, continuation: str) -> Record:
    """Record one greedy continuation, with its own scores for whoever reads the file."""
    rouge = rouge_l(reference, continuation)
    return {
        "kind": "continuation",
        "model": model,
        "text": text,
        "sample": sample,
        "prompt": prompt,
        "reference": reference,
        "continuation": continuation,
        "rouge_l_f1": rouge.f1,
        "rouge_l_recall": rouge.recall,
        "verbatim": continuation.split() == reference.split(),
    }


def answer_record(
    model: str, text: str, sample: str, loss: float, paraphrased_loss: float, perturbed_losses: Sequence[float]
) -> Record:
    """Record what a model gives to the answers of one question, each as the mean loss of its tokens in nats.

    :param loss: Of the right answer.
    :param paraphrased_loss: Of the right answer in other words; where there is none, of the right answer.
    :param perturbed_losses: Of wrong answers of the same form.
    """
    return {
        "kind": "answer",
        "model": model,
        "text": text,
        "sample": sample,
        "loss": loss,
        "paraphrased_loss": paraphrased_loss,
        "perturbed_losses": list(perturbed_losses),
    }


def divergence_record(
    model: str, text: str, sample: str, reference: str, kl: float, agreed: int, tokens: int
) -> Record:
    """Record how far a model's next-token distributions are from a reference's on one sample.

    :param reference: The model whose distributions are taken as true.
    :param kl: Sum over tokens of ``metrics.divergence.kl_divergence``, in nats.
    :param agreed: Tokens at which both have the same first choice.
    :param tokens: Number of tokens compared.
    """
    return {
        "kind": "divergence",
        "model": model,
        "text": text,
        "sample": sample,
        "reference": reference,
        "kl": kl,
        "agreed": agreed,
        "tokens": tokens,
    }


def scores_from_records(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, TextScore]]:
    """Make all scores from records, in whatever order they come.

    Tokens weigh the same whichever sample they are in, and so do continuations.

    :param records: As ``evaluate`` returns them, or as read from ``records.jsonl``.
    :return: Model, then text, to score, in the order in which they first occur.
    :raises DataError: A text has continuations and no losses, or a loss is not finite.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["model"], record["text"]), []).append(record)
    scores: dict[str, dict[str, TextScore]] = {}
    for (model, text), group in groups.items():
        scores.setdefault(model, {})[text] = _score(group, f"{text} by {model}")
    return scores


def _score(group: Sequence[Mapping[str, Any]], where: str) -> TextScore:
    losses = [record for record in group if record["kind"] == "loss"]
    continuations = [record for record in group if record["kind"] == "continuation"]
    tokens = sum(record["tokens"] for record in losses)
    if not tokens:
        raise DataError(f"the records of {where} have no losses", "Give all lines of a records.jsonl.")
    nll = math.fsum(record["nll"] for record in losses)
    if not math.isfinite(nll):
        raise DataError(f"the records of {where} have a loss that is not finite", "Evaluate that model again.")
    loss = nll / tokens
    return TextScore(
        loss=loss,
        perplexity=_exp(loss),
        accuracy=sum(record["correct"] for record in losses) / tokens,
        rouge_l_f1=_mean(continuations, "rouge_l_f1"),
        rouge_l_recall=_mean(continuations, "rouge_l_recall"),
        verbatim=_mean(continuations, "verbatim"),
        tokens=tokens,
        prompts=len(continuations),
    )


def _float32s(values: ArrayLike) -> list[float]:
    """Return float32 values as the shortest decimals that read back as the same float32."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32)]


def _mean(records: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return math.fsum(record[key] for record in records) / len(records) if records else None


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def plain_scores(scores: Mapping[str, TextScore]) -> dict[str, dict[str, Any]]:
    """Return scores by text as plain values of JSON, which knows no infinity: such a perplexity is None."""
    plain = {text: asdict(score) for text, score in scores.items()}
    for values in plain.values():
        if math.isinf(values["perplexity"]):
            values["perplexity"] = None
    return plain
