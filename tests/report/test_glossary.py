"""Every number that can be printed has its words."""

from __future__ import annotations

import pytest
from relating import relation

from taskarith.attacks.recovery import CONVENTIONS as OF_ATTACKS
from taskarith.attacks.recovery import METRICS
from taskarith.evaluation.conventions import CONVENTIONS, conventions_of
from taskarith.evaluation.numbers import BESIDE
from taskarith.relations.correlations import MEASURES
from taskarith.report.glossary import GLOSSARY, glossary_of
from taskarith.report.scores import TITLES

PRINTED = [
    *TITLES,
    *CONVENTIONS,
    *conventions_of(set()),
    *OF_ATTACKS,
    *METRICS,
    *MEASURES,
    *(f"{start}base" for start in BESIDE),
    "leak_at_4",
    "normalised_accuracy of piqa",
    *dict.fromkeys(row.metric for row in relation().tidy()),
    *(f"correlation of {name}" for name in MEASURES),
    "change of the loss",
    "expected rise of the loss",
    "alpha",
    "mean loss of forget sets",
    "rise of the loss of retain sets",
]


@pytest.mark.parametrize("name", PRINTED)
def test_a_number_has_an_entry_of_its_own(name):
    assert any(name.startswith(key) for key in GLOSSARY)


def test_the_longest_entry_counts_and_equal_words_stand_once():
    assert glossary_of(["auc_min_40"]) == {"auc min": GLOSSARY["auc_min"]}
    assert glossary_of(["rouge_l_f1", "rouge_l_recall_stemmed"]) == {"rouge l": GLOSSARY["rouge_l"]}
    assert list(glossary_of(["states", "outputs"])) == ["outputs, states"]
    assert glossary_of(["nll", "acc,none"]) == {"tasks": GLOSSARY["tasks"]}


def test_the_words_are_plain():
    assert all(text.endswith(".") and len(text) < 280 for text in GLOSSARY.values())
