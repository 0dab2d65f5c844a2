"""Other people's evaluation code, run as it is from copies that are never committed."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

__all__ = ["fetch_peers", "min_k_plus_plus", "muse", "open_unlearning", "tofu_utility"]

_SOURCES = ("locuslab/open-unlearning", "swj0419/muse_bench", "zjysteven/mink-plus-plus", "locuslab/tofu")
"""On GitHub."""

_NEEDED = "omegaconf==2.3.0"


def fetch_peers(room: Path, sources: Path | None) -> tuple[dict[str, Path], list[str]]:
    """Clone what is not there yet; return the folders, and what of each is said: its commit, or why it is missing.

    :param room: Folder of the copies.
    :param sources: Folder with git repositories of the same names, instead of the network.
    """
    found, said = {}, []
    room.mkdir(parents=True, exist_ok=True)
    for repository in _SOURCES:
        name = repository.rpartition("/")[2]
        folder = room / name
        if not (folder / ".git").exists():
            origin = str(sources / name) if sources else f"https://github.com/{repository}"
            done = subprocess.run(
                ["git", "clone", "--quiet", "--depth", "1", origin, str(folder)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                said.append(f"{name}: skipped, {done.stderr.strip().splitlines()[-1]}")
                continue
        commit = ["git", "-C", str(folder), "log", "-1", "--format=%h of %as"]
        said.append(f"{name} {subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()}")
        found[name] = folder
    library = room / "site"
    if not library.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]
        subprocess.run([*pip, str(library), _NEEDED], check=True)
    sys.path.append(str(library))
    return found, [*said, *(f"{name} {version(name)}" for name in ("lm-eval", "rouge-score", "scikit-learn"))]


# --- open-unlearning -------------------------------------------------------------------------------------------------


class _Unlearning:
    """Metrics of open-unlearning on one model."""

    def __init__(self, folder: Path, model: Any, tokenizer: Any, data: Path, plain: Path) -> None:
        source = folder / "src"
        sys.path.insert(0, str(source))
        package = types.ModuleType("evals")  # its own __init__ imports hydra's evaluators, which are not needed
        package.__path__ = [str(source / "evals")]
        sys.modules["evals"] = package
        self.metrics = importlib.import_module("evals.metrics").METRICS_REGISTRY
        self.sets = importlib.import_module("data")
        self.model, self.tokenizer, self.data, self.plain = model, tokenizer, data, plain

    def _set(self, name: str, column: str, *, generate: bool = False) -> Any:
        """Return a data set, asked as TOFU's own code asks Phi: the tag before an answer is the answer's."""
        folder = self.plain if generate else self.data  # what is generated is compared with the answer without the tag
        tags = {"user_start_tag": "Question: ", "user_end_tag": "\n", "asst_start_tag": "", "asst_end_tag": "\n"}
        return self.sets.QADataset(
            {"path": "json", "data_files": str(folder / f"{name}.json"), "split": "train"},
            {"apply_chat_template": False, **tags},
            self.tokenizer,
            answer_key=column,
            predict_with_generate=generate,
        )

    def run(self, name: str, data: Any, **more: Any) -> Any:
        side = "left" if "generation_args" in more else "right"
        collator = self.sets.DataCollatorForSupervisedDataset(self.tokenizer, padding_side=side, index="index")
        call = self.metrics[name]._metric_fn
        return call(self.model, data=data, collators=collator, batch_size=2, tokenizer=self.tokenizer, **more)

    def text(self, name: str, *, kind: str, only_ratios: bool = False) -> dict[str, Any]:
        """Return the numbers of one text, of ``forget``, ``retain`` or ``choices``, or those of its losses alone."""
        right = self.run("probability", self._set(name, "answer"))
        correct = right if kind == "choices" else self.run("probability", self._set(name, "paraphrased_answer"))
        wrong = self.run("probability", self._set(name, "perturbed_answer"))
        aggregator = "closer_to_1_better" if kind == "forget" else "true_better"
        found = {"probability": right["agg_value"]}
        if kind == "choices":
            both = {"correct": right, "wrong": wrong}
            found["probability"] = self.metrics["probability_w_options"]._metric_fn(None, pre_compute=both)["agg_value"]
        ratio = self.metrics["truth_ratio"]._metric_fn
        ratios = ratio(None, aggregator=aggregator, pre_compute={"correct": correct, "wrong": wrong})
        found |= {"truth_ratio": ratios["agg_value"], "truth ratios": ratios}
        return found if only_ratios else found | self._text_more(name)

    def _text_more(self, name: str) -> dict[str, Any]:
        from omegaconf import OmegaConf

        how = OmegaConf.create({"do_sample": False, "max_new_tokens": 200, "use_cache": True})
        asked = self._set(name, "answer", generate=True)
        rouge = self.run("rouge", asked, rouge_type="rougeL_recall", generation_args=how)
        found = {"rouge_l_recall_stemmed": rouge["agg_value"]}
        found["extraction_strength"] = self.run("extraction_strength", self._set(name, "answer"))["agg_value"]
        found["exact_memorisation"] = self.run("exact_memorization", self._set(name, "answer"))["agg_value"]
        return found

    def membership(self) -> dict[str, float]:
        sides = {"forget": self._set("forget10_perturbed", "answer"), "holdout": self._set("holdout10", "answer")}
        found = {
            "auc_loss": self.run("mia_loss", sides)["auc"],
            "auc_zlib": self.run("mia_zlib", sides)["auc"],
        }
        for share in (0.2, 0.4):
            found[f"auc_min_{share:.0%}".rstrip("%")] = self.run("mia_min_k", sides, k=share)["auc"]
            found[f"auc_min_{share:.0%}".rstrip("%") + "_plus"] = self.run("mia_min_k_plus_plus", sides, k=share)["auc"]
        return found


def open_unlearning(
    folder: Path, models: Sequence[tuple[Any, Any]], data: Path, plain: Path
) -> dict[str, dict[str, float]]:
    """Return its numbers of TOFU by text, and under ``""`` those over all texts.

    :param folder: Its repository.
    :param models: The model and its tokenizer, then those of the model that never knew.
    :param data: TOFU's layout with TOFU's tag before each answer.
    :param plain: The same without the tags.
    """
    kinds = {"forget": "forget", "retain": "retain", "real_authors": "choices", "world_facts": "choices"}
    files = {"forget": "forget10_perturbed", **{name: f"{name}_perturbed" for name in list(kinds)[1:]}}
    here, never = (_Unlearning(folder, model, tokenizer, data, plain) for model, tokenizer in models)
    found = {name: here.text(files[name], kind=kind) for name, kind in kinds.items()}
    other = never.text(files["forget"], kind="forget", only_ratios=True)["truth ratios"]
    utilities = {
        f"{name} {metric}": {"agg_value": found[name][metric]}
        for name in list(kinds)[1:]
        for metric in ("probability", "truth_ratio", "rouge_l_recall_stemmed")
    }
    call = {name: here.metrics[name]._metric_fn for name in ("hm_aggregate", "ks_test", "privleak")}
    logs = {"retain_model_logs": {"retain": other}}
    ours, theirs = here.membership(), never.membership()
    leak = call["privleak"](
        None,
        pre_compute={"forget": {"agg_value": ours["auc_min_40"]}},
        reference_logs={"retain_model_logs": {"retain": {"agg_value": theirs["auc_min_40"]}}},
    )
    overall = {
        "model_utility": call["hm_aggregate"](None, pre_compute=utilities)["agg_value"],
        "forget_quality": call["ks_test"](
            None, pre_compute={"forget": found["forget"]["truth ratios"]}, reference_logs=logs
        )["agg_value"],
        **ours,
        "privleak": leak["agg_value"],
    }
    return {**{name: {k: v for k, v in one.items() if k != "truth ratios"} for name, one in found.items()}, "": overall}


def tofu_utility(folder: Path, log: Mapping[str, Any]) -> float:
    """Return TOFU's own model utility of its logs."""
    sys.modules.setdefault("hydra", _Stub("hydra"))
    module = runpy.run_path(str(folder / "aggregate_eval_stat.py"), run_name="aggregate")
    return float(module["get_model_utility"](log)["Model Utility"])


class _Stub(types.ModuleType):
    """Stands for a library that only reads the command line."""

    def main(self, **_: Any) -> Callable[[Any], Any]:
        return lambda function: function


# --- MUSE and Min-K%++ -----------------------------------------------------------------------------------------------


def muse(folder: Path, model: Any, tokenizer: Any, data: Mapping[str, Any]) -> dict[str, float]:
    """Return MUSE's VerbMem and KnowMem, times 100, and its AUCs of forget against holdout as taskarith has them.

    :param data: ``verbmem`` and ``knowmem_...`` with pairs of texts, of the latter the solved ones first; ``forget``
        and ``holdout`` with texts.
    """
    sys.path.insert(0, str(folder))
    verbmem, knowmem = (importlib.import_module(f"metrics.{name}") for name in ("verbmem", "knowmem"))
    prompts, truths = zip(*data["verbmem"], strict=True)
    found = {"verbmem": verbmem.eval(model, tokenizer, list(prompts), list(truths))[0]["mean_rougeL"] * 100}
    for side in ("knowmem_forget", "knowmem_retain"):
        solved, asked = data[side]
        columns = [list(column) for rows in (asked, solved) for column in zip(*rows, strict=True)]
        found[side] = knowmem.eval(model, tokenizer, *columns)[0]["mean_rougeL"] * 100
    source = (folder / "metrics/privleak.py").read_text(encoding="utf-8")
    module = types.ModuleType("privleak")
    # as published it asks a list for its keys, and does not run
    exec(compile(source.replace("log['forget'].keys()", "log['forget'][0].keys()"), "privleak", "exec"), vars(module))  # noqa: S102
    aucs, _ = module.eval(data["forget"], data["forget"], data["holdout"], model, tokenizer)
    names = {"auc_loss": "PPL", "auc_zlib": "PPL/zlib", "auc_min_20": "Min-20%", "auc_min_40": "Min-40%"}
    return found | {name: 1 - aucs[f"forget_holdout_{theirs}"] for name, theirs in names.items()}


def min_k_plus_plus(folder: Path, model: Path, texts: Sequence[tuple[str, int]]) -> dict[str, str]:
    """Return the AUCs that its script prints, as percentages with one digit.

    :param model: A model's folder.
    :param texts: With 1 for those that were learned.
    """
    rows = [{"input": text, "label": label} for text, label in texts]
    arguments = ["run.py", "--model", str(model), "--dataset", "WikiMIA_length64"]
    with (
        mock.patch.object(sys, "argv", arguments),
        mock.patch("datasets.load_dataset", return_value=rows),
        mock.patch("os.makedirs"),
        mock.patch("pandas.DataFrame.to_csv"),
    ):
        found = runpy.run_path(str(folder / "run.py"))["results"]
    table = dict(zip(found["method"], found["auroc"], strict=True))
    names = {"loss": "auc_loss", "zlib": "auc_zlib", "mink_0.2": "auc_min_20", "mink_0.4": "auc_min_40"}
    names |= {"mink++_0.2": "auc_min_20_plus", "mink++_0.4": "auc_min_40_plus"}
    return {ours: table[theirs] for theirs, ours in names.items()}
