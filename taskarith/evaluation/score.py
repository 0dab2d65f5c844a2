"""Records to numbers, one way for `eval` and `score`; and the verb `score`, which needs no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.errors import DataError, MismatchError, UsageError, name_some
from taskarith.evaluation.families import BESIDE, FORGET, across_texts, of_text
from taskarith.evaluation.metrics.intervals import Estimate, Spread, over_seeds
from taskarith.evaluation.stored import Sheet, other_samples, read_sheets

__all__ = ["CONVENTIONS", "Number", "Scores", "make_scores", "score"]

Number = Estimate | Spread

CONVENTIONS = {
    "loss": "nats; the mean over all scored tokens of a text, teacher-forced; lower is better",
    "perplexity": "exp(loss); null where that is beyond a float64",
    "accuracy": "share of scored tokens that are the model's first choice, teacher-forced",
    "rouge_l_f1": "ROUGE-L F1 of greedy continuations, mean over prompts; rouge_score's words, no stemming",
    "rouge_l_recall": "ROUGE-L recall of greedy continuations, mean over prompts; rouge_score's words, no stemming",
    "verbatim": "share of greedy continuations that equal the reference word for word; case and punctuation count",
    "exact_memorisation": "share of a sample's tokens that are the model's first choice, mean over samples; without "
    "end tokens, as in open-unlearning",
    "extraction_strength": "1 - k/n, k the shortest prefix after which all first choices are right; k < n and without "
    "end tokens, as in open-unlearning; mean over samples",
    "rouge_l_f1_stemmed": "rouge_l_f1 of Porter stems (rouge_score with use_stemmer=True)",
    "rouge_l_recall_stemmed": "rouge_l_recall of Porter stems (rouge_score with use_stemmer=True), as in TOFU",
    "probability": "exp(-mean token loss) of the right answer; of real_authors and world_facts its share among all "
    "answers (TOFU, arXiv:2401.06121)",
    "truth_ratio": "R: geometric mean of the wrong answers' probabilities over the paraphrased right one's; mean of "
    "max(0, 1 - R), of the text forget mean of min(R, 1/R) (TOFU)",
    "truth_probability": "p / (p + p_wrong): the paraphrased right answer's probability against the geometric mean of "
    "the wrong ones', as open-unlearning's truth ratio with prob_mean (arXiv:2506.12618); mean over questions",
    "fluency": "n-gram entropy of greedy continuations in bits, (2/3 of bigrams' + 4/3 of trigrams') / 2, as in "
    "ROME (arXiv:2202.05262); NLTK's words without its splitter of sentences; it grows with length; mean over prompts",
    "kl": "KL(reference || model) of next-token distributions in nats, mean over tokens, teacher-forced",
    "agreement": "share of tokens at which both models have the same first choice, teacher-forced",
    "model_utility": "TOFU: harmonic mean of probability, rouge_l_recall_stemmed and truth_ratio of retain, "
    "real_authors and world_facts",
    "forget_quality": "TOFU: two-sided p-value of the two-sample Kolmogorov-Smirnov test of R on forget, "
    "against --retain; a p-value has no interval",
    "forget_distance": "the statistic D of that test; without an interval, since its bootstrap never covers 0",
    "verbmem": "MUSE (arXiv:2407.06460): mean ROUGE-L F1 of continuations times 100, no stemming",
    "knowmem": "MUSE: mean ROUGE-L F1 of answers times 100, no stemming",
    "auc": "membership inference: P(score of a sample of forget > of holdout), ties half; above 0.5 is leakage",
    "auc_loss": "score: minus mean token loss",
    "auc_zlib": "score: minus mean token loss per byte of the zlib-compressed text",
    "auc_min": "score: mean log-probability of the max(1, floor(k n)) least likely tokens, end tokens left out; plus: "
    "of their z-scores, of which the variance is at least 1e-6",
    "auc_reference": "score: minus mean token loss over that of the --retain model",
    "tpr_at": "true positive rate of the attack of that name: share of forget above the threshold above which at most "
    "0.1%, 1% or 5% of holdout are (arXiv:2112.03570); not below 1,000, 100 or 20 samples of holdout",
    "privleak": "MUSE: (A - A_retrain) / A_retrain * 100, A = 1 - auc_min_40, retrained model from --retain; -100: "
    "still known, 0: as retrained; its interval draws each sample for both models",
    "tasks": "all other names: metrics of lm-eval's tasks; what is no mean over samples has an interval of 1.96 of "
    "lm-eval's standard errors",
}
"""What each number is; a name is looked up by the longest key that it begins with."""

_INTERVALS = {
    "intervals": "95%, samples taken as independent: of means and ratios Student's t on the jackknife's standard "
    "error, of shares of which few differ at least Clopper-Pearson; of AUCs DeLong on the logit and Newcombe's score "
    "interval; of TPRs Clopper-Pearson at both ends of the threshold's order statistics; of PrivLeak percentile "
    "bootstrap (2000 resamples, seed 42). Nominal: of strongly skewed losses 87% at 4 samples, 92% at 16",
    "seeds": "mean and standard deviation (n - 1) over seeds",
}


@dataclass(frozen=True)
class Scores:
    """Numbers of models, made from records.

    :param models: Names of the rows.
    :param texts: Names of the texts in the order in which they first occur.
    :param by_text: Model, then text, then name, to number.
    :param overall: Model, then name, to the numbers that need several texts or the retain model.
    :param missing: Model, then name, to why a number is missing; of a single text its name is ``NUMBER of TEXT``.
    :param remarks: What does not compare.
    """

    models: tuple[str, ...]
    texts: tuple[str, ...]
    by_text: dict[str, dict[str, dict[str, Number]]]
    overall: dict[str, dict[str, Number]]
    missing: dict[str, dict[str, str]]
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values of JSON, with the conventions of the numbers that are there."""
        names = {name for texts in self.by_text.values() for numbers in texts.values() for name in numbers}
        names |= {name for numbers in self.overall.values() for name in numbers}
        return {
            "models": list(self.models),
            "texts": list(self.texts),
            "scores": {
                model: {text: _plain(self.by_text[model][text]) for text in self.texts if text in self.by_text[model]}
                for model in self.models
            },
            "overall": {model: _plain(self.overall[model]) for model in self.models},
            "missing": self.missing,
            "remarks": list(self.remarks),
            "conventions": _conventions(names) | _INTERVALS,
        }


def score(records: Sequence[str | Path], *, retain: str | Path | None = None, seeds: bool = False) -> Scores:
    """Recompute every number from stored records.

    Some texts get more numbers by their names: ``forget``, ``retain``, ``real_authors`` and ``world_facts`` TOFU's,
    ``forget`` and ``holdout`` membership inference, ``verbmem``, ``knowmem_forget`` and ``knowmem_retain`` MUSE's.

    :param records: Folders or files: ``records.jsonl`` of an evaluation, or TOFU's ``eval_log*.json``.
    :param retain: A model that never saw the forget set: its name among those of the records, or a folder or file with
        its records alone, on the same samples.
    :param seeds: The records are of the same models under several seeds, in the same order: give mean and spread.
    :raises DataError: Records are missing, incomplete, twice or not finite.
    :raises MismatchError: Records that are to be combined are of other samples.
    :raises UsageError: There are no records, or too few seeds, or the retain records are of several models.
    """
    if not records:
        raise UsageError("no records are given", "Name one or more, as in: taskarith score runs/eval")
    sources = [read_sheets(path) for path in records]
    rows = _named(sources)
    scores = make_scores(rows, {} if retain is None else _retain_sheets(sources, rows, str(retain)))
    return _over_seeds(scores, sources, rows) if seeds else scores


def make_scores(rows: Mapping[str, Sheet], retain: Mapping[str, Sheet]) -> Scores:
    """Make all numbers from records.

    :param rows: Name of each row, and the records of its model.
    :param retain: Name of a row to the records of a model that never saw the forget set; that may be a row too.
    """
    texts = tuple(dict.fromkeys(text for sheet in rows.values() for text in sheet.texts))
    by_text: dict[str, dict[str, dict[str, Number]]] = {}
    overall: dict[str, dict[str, Number]] = {}
    missing: dict[str, dict[str, str]] = {}
    for name, sheet in rows.items():
        found, missing[name] = across_texts(sheet, retain.get(name))
        overall[name] = dict(found)
        parts = {text: of_text(sheet, text) for text in sheet.texts}
        by_text[name] = {text: dict(found) for text, (found, _) in parts.items()}
        missing[name] |= {key: why for _, lacking in parts.values() for key, why in lacking.items()}
    return Scores(tuple(rows), texts, by_text, overall, missing, _remarks(rows))


def _retain_sheets(sources: Sequence[Sequence[Sheet]], rows: Mapping[str, Sheet], retain: str) -> dict[str, Sheet]:
    """Return for each row the records of the retain model: those beside it, or those named."""
    inside = [next((sheet for sheet in source if sheet.model == retain), None) for source in sources]
    found = [sheet for sheet in inside if sheet is not None]
    other = found[0] if found else _single(read_sheets(retain), retain)
    for sheet in found or [other]:
        if not any(sheet.of(kind, FORGET) for kind in ("answer", "loss")):
            raise DataError(
                f"{retain} has no losses or answers of a text named {FORGET}", f"Evaluate it on {FORGET}=DATA too."
            )
    own = {id(sheet): beside for source, beside in zip(sources, inside, strict=True) for sheet in source}
    return {name: own[id(sheet)] or other for name, sheet in rows.items()}


def _single(sheets: Sequence[Sheet], path: str) -> Sheet:
    if len(sheets) > 1:
        raise UsageError(
            f"--retain {path} has records of several models: {name_some([sheet.model for sheet in sheets])}",
            "Keep the lines of the model that never saw the forget set.",
        )
    return sheets[0]


def _named(sources: Sequence[Sequence[Sheet]]) -> dict[str, Sheet]:
    """Return all sheets by the name of their row: the model's, and where several have it also where it is from."""
    sheets = [sheet for source in sources for sheet in source]
    names = [sheet.model for sheet in sheets]
    rows: dict[str, Sheet] = {}
    for sheet in sheets:
        name = sheet.model if names.count(sheet.model) == 1 else f"{sheet.model} ({sheet.where})"
        if name in rows:
            raise UsageError(f"{sheet.where} is given twice", "Name each of the records once.")
        rows[name] = sheet
    return rows


def _remarks(rows: Mapping[str, Sheet]) -> tuple[str, ...]:
    """Say where models side by side were asked different things."""
    first, *others = rows.items()
    remarks = [
        f"{first[0]} and {name} do not compare ({kind}): they have {other}"
        for name, sheet in others
        for kind, text in ((kind, text) for kind, texts in first[1].kinds.items() for text in texts)
        if sheet.of(kind, text) and (other := other_samples(first[1], sheet, kind, text))
    ]
    return tuple(dict.fromkeys(remarks))


def _over_seeds(scores: Scores, sources: Sequence[Sequence[Sheet]], rows: Mapping[str, Sheet]) -> Scores:
    """Return one row for the models at the same place of each source; its name is the first one's."""
    if len(sources) < 2 or len({len(source) for source in sources}) > 1:
        raise UsageError(
            "--seeds needs records of two seeds or more, with equally many models each",
            "Name one RECORDS for each seed.",
        )
    if scores.remarks:
        raise MismatchError(scores.remarks[0], "Evaluate all seeds on the same data.")
    names = {id(sheet): name for name, sheet in rows.items()}
    groups = {members[0].model: [names[id(sheet)] for sheet in members] for members in zip(*sources, strict=True)}
    alias = {sheet.model: members[0].model for members in zip(*sources, strict=True) for sheet in members}
    by_text: dict[str, dict[str, dict[str, Number]]] = {}
    overall: dict[str, dict[str, Number]] = {}
    missing: dict[str, dict[str, str]] = {}
    for row, members in groups.items():
        missing[row] = {name: what for member in reversed(members) for name, what in scores.missing[member].items()}
        by_text[row] = {}
        for text in scores.texts:
            found = [_renamed(scores.by_text[member].get(text, {}), alias) for member in members]
            by_text[row][text], lost = _spread(found)
            missing[row] |= dict.fromkeys(lost, f"is not there for {text} under every seed")
        overall[row], lost = _spread([scores.overall[member] for member in members])
        missing[row] |= {name: missing[row].get(name, "is not there under every seed") for name in lost}
    return Scores(tuple(groups), scores.texts, by_text, overall, missing)


def _renamed(numbers: Mapping[str, Number], alias: Mapping[str, str]) -> dict[str, Number]:
    """Give numbers that compare with another row the name of that row, which is the first seed's."""
    parts = {name: next((start for start in BESIDE if name.startswith(start)), "") for name in numbers}
    return {
        start + alias.get(name.removeprefix(start), name.removeprefix(start)) if start else name: numbers[name]
        for name, start in parts.items()
    }


def _spread(seeds: Sequence[Mapping[str, Number]]) -> tuple[dict[str, Number], list[str]]:
    """Return mean and spread of every number that all seeds have, and the names of those that only some have."""
    names = dict.fromkeys(name for numbers in seeds for name in numbers)
    shared = [name for name in names if all(name in numbers for numbers in seeds)]
    spread = {name: over_seeds([numbers[name].value for numbers in seeds]) for name in shared}
    return dict(spread), [name for name in names if name not in spread]


def _plain(numbers: Mapping[str, Number]) -> dict[str, Any]:
    return {name: number.to_json() for name, number in numbers.items()}


def _conventions(names: set[str]) -> dict[str, str]:
    used = {max((key for key in CONVENTIONS if name.startswith(key)), key=len, default="tasks") for name in names}
    used |= {"auc"} if any(name.startswith("auc") for name in used) else set()
    return {key: text for key, text in CONVENTIONS.items() if key in used}
