"""Descriptions of all numbers: unit, source, and whose definition is used where tools differ."""

from __future__ import annotations

__all__ = ["CONVENTIONS", "conventions_of"]

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
    "leak_at": "what the best of k continuations scores, drawn at temperature 1 from all tokens: ROUGE-L recall of "
    "Porter stems; unbiased, from all draws (arXiv:2511.04934); mean over prompts",
    "lens": "lens_N: loss in nats of a text's first samples when the states of layer N are read by the model's own "
    "final norm and output head, the logit lens (nostalgebraist 2020); 0: the embeddings; the last: the model's own",
    "kl": "KL(reference || model) of next-token distributions in nats, mean over tokens, teacher-forced",
    "agreement": "share of tokens at which both models have the same first choice, teacher-forced",
    "model_utility": "TOFU: harmonic mean of probability, rouge_l_recall_stemmed and truth_ratio of retain, "
    "real_authors and world_facts",
    "forget_quality": "TOFU: two-sided p-value of the two-sample Kolmogorov-Smirnov test of R on forget, "
    "against --reference; a p-value has no interval",
    "forget_distance": "the statistic D of that test; without an interval, since its bootstrap never covers 0",
    "verbmem": "MUSE (arXiv:2407.06460): mean ROUGE-L F1 of continuations times 100, no stemming",
    "knowmem": "MUSE: mean ROUGE-L F1 of answers times 100, no stemming",
    "auc": "membership inference: P(score of a sample of forget > of holdout), ties half; above 0.5 is leakage",
    "auc_loss": "score: minus mean token loss",
    "auc_zlib": "score: minus mean token loss per byte of the zlib-compressed text",
    "auc_min": "score: mean log-probability of the max(1, floor(k n)) least likely tokens, end tokens left out; plus: "
    "of their z-scores, of which the variance is at least 1e-6",
    "auc_reference": "score: minus mean token loss over that of the --reference model",
    "auc_gradient": "score: minus the mean over weight tensors of the norm of the loss's gradient, as GradNorm in "
    "open-unlearning (arXiv:2402.17012), but without dropout",
    "tpr_at": "true positive rate of the attack of that name: share of forget above the threshold above which at most "
    "0.1%, 1% or 5% of holdout are (arXiv:2112.03570); not below 1,000, 100 or 20 samples of holdout",
    "normalised_accuracy": "accuracy (of tasks acc or exact_match, of texts top-1) over that of the model fine-tuned "
    "for the task, and the mean over tasks (arXiv:2212.04089); a sample counts for both models at once",
    "privleak": "MUSE: (A - A_retrain) / A_retrain * 100, A = 1 - auc_min_40, retrained model from --reference; -100: "
    "still known, 0: as retrained; its interval draws each sample for both models",
    "tasks": "all other names: metrics of lm-eval's tasks; what is not a mean over samples has an interval of 1.96 of "
    "lm-eval's standard errors",
}
"""Descriptions of numbers; a name takes the longest key that it begins with."""

_INTERVALS = {
    "intervals": "95%, samples taken as independent: of means and ratios Student's t on the jackknife's standard "
    "error, of shares of which few differ at least Clopper-Pearson; of AUCs DeLong on the logit and Newcombe's score "
    "interval; of TPRs Clopper-Pearson at both ends of the threshold's order statistics; of PrivLeak percentile "
    "bootstrap (2000 resamples, seed 42). Nominal: of strongly skewed losses 87% at 4 samples, 92% at 16",
    "seeds": "mean and standard deviation (n - 1) over seeds",
}


def conventions_of(names: set[str]) -> dict[str, str]:
    """Return the descriptions of these numbers, and those of intervals and spreads."""
    used = {max((key for key in CONVENTIONS if name.startswith(key)), key=len, default="tasks") for name in names}
    used |= {"auc"} if any(name.startswith("auc") for name in used) else set()
    return {key: text for key, text in CONVENTIONS.items() if key in used} | _INTERVALS
