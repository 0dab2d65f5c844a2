"""Records of every sample, from which all numbers are calculated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskarith.evaluation.metrics.rouge import rouge_l

__all__ = [
    "Record",
    "answer_record",
    "column",
    "continuation_record",
    "divergence_record",
    "gradient_record",
    "lens_record",
    "loss_record",
    "sampled_record",
    "task_record",
    "task_score_record",
    "text_tokens",
    "token_fields",
    "unreadable_record",
]

_Tokens = TypeVar("_Tokens", str, list[float])
Record = dict[str, Any]
"""One line of ``records.jsonl``. Every record has ``kind``, ``model`` (a row of the tables), ``text`` (the name of a
data set) and ``sample`` (an id, unique per model, text and kind). Further fields by kind:

``loss``, a teacher-forced pass over one sample
    ``nll`` (sum in nats), ``tokens``, ``correct`` (number of first choices); and for numbers that need every token
    ``token_losses`` (float32, in order), ``hits`` (``1`` per first choice, else ``0``) and
    ``z_scores`` (float32, see ``metrics.membership.min_k_plus_score``); ``end_tokens``, how many of the last
    tokens only end the text, such as EOS; and ``zlib_bytes`` (the text compressed).
``continuation``, a greedy one
    ``prompt``, ``reference``, ``continuation``, and their ROUGE-L for readers of the file.
``answer``, a question with right and wrong answers
    mean token losses: ``loss`` of the right answer, ``paraphrased_loss`` of its paraphrase, and the list
    ``perturbed_losses`` of the wrong ones. The generated answer is a ``continuation`` with the same text and sample.
``divergence``, next-token distributions compared with those of the model named in ``reference``
    ``kl`` (sum over tokens of KL(reference || model) in nats), ``agreed`` (tokens with the same first choice),
    ``tokens``. Ids are unique per reference.
``sampled``, sampled continuations
    ``reference`` and ``continuations``, a list.
``gradient``, the gradient of one sample's loss
    ``norm``, see ``extras.gradient_norm``.
``lens``, a sample read at every layer, see ``evaluation.lens``
    ``nll``, a list with the sum in nats at each layer: of the embeddings, then of each layer, the last of which is the
    model's own loss; and ``tokens``. Or only ``unreadable``, why the layers of the model cannot be read.
``task``, a sample of an lm-eval task, which is the ``text``
    ``values``, the sample's value of each metric that is a mean.
``task_score``, an lm-eval number that is not a mean over samples; its name is the ``sample``
    ``value``, ``stderr`` (or null) and ``samples`` (or null).
"""


def loss_record(
    model: str,
    text: str,
    sample: str,
    nll: float,
    tokens: int,
    correct: int,
) -> Record:
    """Record a teacher-forced pass over one sample; see ``token_fields`` for optional fields.

    :param nll: Sum of the negative log-likelihoods of the scored tokens, in nats.
    :param tokens: Number of scored tokens.
    :param correct: Number of scored tokens that are the model's first choice.
    """
    return {
        "kind": "loss",
        "model": model,
        "text": text,
        "sample": sample,
        "nll": nll,
        "tokens": tokens,
        "correct": correct,
    }


def token_fields(
    *,
    losses: ArrayLike | None = None,
    hits: ArrayLike | None = None,
    z_scores: ArrayLike | None = None,
    end_tokens: int | None = None,
    zlib_bytes: int | None = None,
) -> Record:
    """Return the optional per-token fields of a loss record, without those not given.

    :param losses: Loss of each scored token, float32 of shape (tokens,); stored exactly, with the fewest digits.
    :param hits: Whether each is the first choice, bool of shape (tokens,).
    :param z_scores: Standardised log-probability of each, float32 of shape (tokens,).
    :param end_tokens: Number of last scored tokens that only end the text.
    :param zlib_bytes: ``metrics.membership.zlib_bytes`` of the sample's text.
    """
    record: Record = {}
    if losses is not None:
        record["token_losses"] = _float32s(losses)
    if hits is not None:
        record["hits"] = "".join("1" if hit else "0" for hit in np.asarray(hits, dtype=np.bool_))
    if z_scores is not None:
        record["z_scores"] = _float32s(z_scores)
    if end_tokens is not None:
        record["end_tokens"] = end_tokens
    if zlib_bytes is not None:
        record["zlib_bytes"] = zlib_bytes
    return record


def continuation_record(model: str, text: str, sample: str, prompt: str, reference: str, continuation: str) -> Record:
    """Record one greedy continuation, with its own scores for readers of the file."""
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
    """Record the mean token losses, in nats, of the answers to one question.

    :param loss: Loss of the right answer.
    :param paraphrased_loss: Loss of its paraphrase, or of the right answer if there is none.
    :param perturbed_losses: Losses of wrong answers of the same form.
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
    """Record the divergence of a model's next-token distributions from a reference's on one sample.

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


def sampled_record(model: str, text: str, sample: str, reference: str, continuations: Sequence[str]) -> Record:
    """Record the sampled continuations of one prompt."""
    return {
        "kind": "sampled",
        "model": model,
        "text": text,
        "sample": sample,
        "reference": reference,
        "continuations": list(continuations),
    }


def gradient_record(model: str, text: str, sample: str, norm: float) -> Record:
    """Record the gradient norm of one sample's loss."""
    return {"kind": "gradient", "model": model, "text": text, "sample": sample, "norm": norm}


def lens_record(model: str, text: str, sample: str, nll: Sequence[float], tokens: int) -> Record:
    """Record the losses of one sample at each layer.

    :param nll: Sums of the negative log-likelihoods of the scored tokens, in nats.
    :param tokens: Number of scored tokens.
    """
    return {"kind": "lens", "model": model, "text": text, "sample": sample, "nll": list(nll), "tokens": tokens}


def unreadable_record(model: str, text: str, sample: str, reason: str) -> Record:
    """Record why the layers of a model cannot be read."""
    return {"kind": "lens", "model": model, "text": text, "sample": sample, "unreadable": reason}


def task_record(model: str, text: str, sample: str, values: Mapping[str, float]) -> Record:
    """Record one sample of an lm-eval task.

    :param text: Name of the task.
    :param values: The sample's value of each metric that is a mean over samples.
    """
    return {"kind": "task", "model": model, "text": text, "sample": sample, "values": dict(values)}


def task_score_record(
    model: str, text: str, metric: str, value: float, stderr: float | None, samples: int | None
) -> Record:
    """Record a number of lm-eval that is not a mean over samples.

    :param text: Name of the task, or of a group of them.
    :param metric: Name of the number, stored as sample id.
    :param stderr: Its standard error, or None.
    :param samples: Number of samples; None for a group.
    """
    return {
        "kind": "task_score",
        "model": model,
        "text": text,
        "sample": metric,
        "value": value,
        "stderr": stderr,
        "samples": samples,
    }


def text_tokens(record: Record, values: _Tokens) -> _Tokens:
    """Return per-token values of a loss record without those of its end tokens.

    :param values: One per token, as a list or a string.
    """
    return values[: len(values) - record["end_tokens"]]


def column(records: Mapping[str, Record], key: str) -> NDArray[np.float64]:
    """Return one field of all records, shape (records,)."""
    return np.asarray([record[key] for record in records.values()], dtype=np.float64)


def _float32s(values: ArrayLike) -> list[float]:
    """Return float32 values as the shortest decimals that read back as the same float32."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32)]
