"""Every number in plain words, for readers who have not met it."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["GLOSSARY", "glossary_of"]

_MEMBER = (
    "Can a stranger tell texts the model was trained on from texts it never saw? 0.5 is guessing, 1 is always, so that "
    "0.5 is what forgetting looks like"
)

GLOSSARY = {
    "loss": "How surprised the model is by each next word of the text, on average. Low: it knows the text. As high as "
    "that of a model that never saw it: nothing is left by this measure.",
    "perplexity": "The loss as a number of choices: among how many words the model feels it has to guess each time.",
    "accuracy": "How often the word that the model finds most likely is the one that really comes next in the text.",
    "rouge_l": "How much of the true continuation stands in what the model wrote, in the same order: 0 is "
    "nothing, 1 is "
    "all of it. Recall does not count what was written beside it; stemmed takes other endings of a word for the same.",
    "verbatim": "How often the model writes the true continuation word for word.",
    "exact_memorisation": "Which share of the words of the text the model would get right, each after the true "
    "beginning.",
    "exact_tokens": "Which share of the true continuation the model writes before its first mistake.",
    "extraction_strength": "How little of the text has to be given for the model to finish it without a mistake: 0 is "
    "all of it, near 1 is almost nothing.",
    "probability": "How likely the model finds the right answer to a question.",
    "truth_ratio": "Whether the model finds right answers more likely than wrong ones, also when they are put in other "
    "words.",
    "truth_probability": "How often the model would choose the right answer if it had to choose between it and "
    "wrong ones.",
    "fluency": "Whether the model still writes varied language: a model that repeats one word has a value near 0.",
    "leak_at": "How much of the true text the best of several tries gives, if the model may answer more than once.",
    "lens": "How surprised the model would be by each next word if it had to speak after that many of its layers. A "
    "layer at which it is less surprised than a model that never saw the text still holds something of it.",
    "kl": "How differently two models (KL divergence) would go on with a text: 0 is just alike.",
    "agreement": "How often two models find the same next word most likely.",
    "model_utility": "What the model can still do beside the forgotten text, from 0 to 1: one number for several "
    "tasks.",
    "forget_quality": "Whether the model can be told from one that never saw the text: near 1 it cannot, near 0 "
    "it can.",
    "forget_distance": "How far apart the answers of the model and of one that never saw the text are: 0 is not "
    "at all.",
    "verbmem": "How much of the text the model can write on when it is given the beginning, from 0 to 100.",
    "knowmem": "How much of what the text says the model can answer questions about, from 0 to 100.",
    "membership": f"{_MEMBER}.",
    "auc": f"{_MEMBER} (area under the curve).",
    "auc_loss": f"{_MEMBER}; judged by the loss.",
    "auc_zlib": f"{_MEMBER}; judged by the loss, compared with how simple the text is.",
    "auc_min": f"{_MEMBER}; judged by the words that surprise the model most (Min-K%).",
    "auc_reference": f"{_MEMBER}; judged by the loss, compared with that of a model that never saw the text.",
    "auc_gradient": f"{_MEMBER}; judged by how strongly the model would change if it were trained on the text.",
    "tpr": "Of the texts the model was trained on, the share a stranger finds who may hardly ever be wrong about "
    "others.",
    "privleak": "Whether traces of training on the text are left, against a model that never saw it: 0 is none, "
    "-100 is "
    "all of them; far above 0 the text stands out because it is avoided.",
    "normalised_accuracy": "How much of what each model learned of its own task the combined model can still do: "
    "1 is all.",
    "tasks": "The result of a public test, under the name it has there.",
    "recovered": "Which share of what was taken away an attack brings back: 0% is nothing, 100% is all.",
    "beyond": "Which share of what was taken away an attack brings back that it does not give to a model that "
    "never knew "
    "the text: only this was still hidden in the model.",
    "never": "The same number of a model that never knew the text, under the same attack.",
    "back": "Which share of what was taken away an attack brings back.",
    "strongest": "The attack that brings back most, with allowance for having picked it among several.",
    "worst": "The most that one of several ways to ask brings out.",
    "n": "On how many samples, prompts or questions a number rests: the fewer, the wider its interval.",
    "interval": "A range that is made so that 95 of 100 such ranges hold the true number.",
    "seeds": "The same measurement after several trainings: the mean, and how much they differ.",
    "alpha": "How much of what was learned is taken away: 0 is nothing, 1 is just as much as was learned.",
    "mean loss": "The loss, averaged over the texts that are to be forgotten, or to be kept.",
    "rise of the loss": "How much worse the model becomes at the texts that are to be kept: 0 is not at all.",
    "norm": "How long a task vector is: how far training moved the model.",
    "cosine": "Whether two vectors point the same way: 1 is the same way, 0 is unrelated, -1 is opposite.",
    "sign_agreement": "How often two vectors move a weight in the same direction.",
    "interference": "How much of two vectors cancels when they are added.",
    "overlap": "Whether two vectors move the same weights most.",
    "leading subspaces": "Whether two vectors change a layer in the same few directions.",
    "correlation": "Whether two vectors change what the model says in the same way: 1 is alike, 0 unrelated, -1 "
    "opposite.",
    **dict.fromkeys(
        ("loss changes", "output changes", "state changes", "outputs", "centred outputs", "states"),
        "Whether two vectors change what the model says in the same way, by one of several measures: 1 is alike, 0 "
        "unrelated, -1 opposite.",
    ),
    "change of the loss": "How adding a vector changes the loss of a text: below 0 the model gets better at it.",
    "expected rise of the loss": "How much worse the model is expected to become at another text if a vector is "
    "taken away.",
}
"""What a number says; a name takes the longest entry that it begins with."""


def glossary_of(names: Iterable[str]) -> dict[str, str]:
    """Return the entries of these numbers in the order of the glossary; those with the same words once."""
    keys = {max((key for key in GLOSSARY if _is_of(name, key)), key=len, default="tasks") for name in names}
    by_text: dict[str, list[str]] = {}
    for key, text in GLOSSARY.items():
        if key in keys:
            by_text.setdefault(text, []).append(key.replace("_", " "))
    return {", ".join(titles): text for text, titles in by_text.items()}


def _is_of(name: str, key: str) -> bool:
    return name == key or (len(key) > 1 and name.startswith(key))
