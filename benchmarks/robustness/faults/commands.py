"""Every command that writes, and the small inputs that they read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COMMANDS", "PRINTING", "Command", "make_inputs"]


_NONSENSE = ["river", "stone", "lantern", "keeper", "north", "winter", "bread", "salt", "engine", "valve", "copper"]


@dataclass(frozen=True)
class Command:
    """One way to call taskarith.

    :param words: Its words, run in a folder that holds ``in`` and ``out``; ``{}`` stands for ``value``.
    :param values: What makes the output that is asked for, and what an earlier one of other content.
    :param output: What it writes, relative to that folder; empty if it only prints.
    :param is_heavy: Whether it loads a model, or starts processes: fewer rounds are played with it.
    :param in_stages: Whether its output is a folder of outputs, in which the same command goes on: judged is what it
        comes to in the end.
    :param start: What lies in the place of the output before, relative to that folder, where the command changes it:
        the same command completes a change that was stopped. Empty if it writes an output of its own.
    """

    words: str
    values: tuple[str, str] = ("", "")
    output: str = ""
    is_heavy: bool = False
    in_stages: bool = False
    start: str = ""

    def line(self, earlier: bool = False) -> list[str]:
        """Return the words of a call."""
        return [word.replace("{}", self.values[earlier]) for word in self.words.split()]


_ASKED = "--block-size 16 --prompts 2 --prompt-tokens 4 --continuation-tokens 4"
_TRAIN = "finetune in/base --data in/forget.txt --max-steps 3 --block-size 16 --save-steps 1 --seed {}"
_TEXTS = "--data forget=in/forget.txt --data retain=in/retain.txt"
_ALPHAS, _SEEDS, _TUNED = ("0.7", "0.3"), ("1", "2"), ("tuned", "other")
_EDITED, _VECTOR = "out/edited", "out/v.safetensors"

COMMANDS = {
    "apply": Command("apply in/base --negate in/v.safetensors --alpha {} -o out/edited", _ALPHAS, _EDITED),
    "apply a fine-tune": Command("apply in/base --add in/tuned@@in/base:{} -o out/edited", _ALPHAS, _EDITED),
    "apply a recipe": Command("apply --config in/recipe.yaml --alpha {} -o out/edited", _ALPHAS, _EDITED),
    "apply --keep-undo": Command(
        "apply in/base --negate in/lora --alpha {} --keep-undo --sha256 -o out/edited", _ALPHAS, _EDITED
    ),
    "apply --jobs 2": Command(
        "apply in/base --negate in/v.safetensors --alpha {} --jobs 2 -o out/edited", _ALPHAS, _EDITED, is_heavy=True
    ),
    **{
        f"extract {options}".strip(): Command(
            f"extract in/base in/{{}} {options} -o out/{output}", _TUNED, f"out/{output}", is_heavy="rank" in options
        )
        for options, output in (
            ("", "v.safetensors"),
            ("--exact", "v.safetensors"),
            ("--top-k 0.1", "v.safetensors"),
            ("--bits 4", "v.safetensors"),
            ("--rank 2", "adapter"),
        )
    },
    "extract a LoRA": Command("extract in/base in/{} -o out/v.safetensors", ("lora", "lora2"), _VECTOR),
    "combine": Command("combine in/v.safetensors:{} - in/w.safetensors:0.4 -o out/v.safetensors", _ALPHAS, _VECTOR),
    "combine adapters": Command("combine in/lora:{} + in/lora2:0.5 -o out/adapter", _ALPHAS, "out/adapter"),
    "undo": Command("undo in/{} -o out/restored", ("twice", "twice2"), "out/restored"),
    "finetune": Command(f"{_TRAIN} -o out/trained", _SEEDS, "out/trained", is_heavy=True),
    "finetune --lora": Command(
        f"{_TRAIN} --lora --lora-rank 2 -o out/trained", _SEEDS, "out/trained", is_heavy=True
    ),
    "eval": Command(
        f"eval in/base --negate in/v.safetensors --alpha 0,{{}} {_TEXTS} {_ASKED} -o out/eval",
        _ALPHAS, "out/eval", is_heavy=True,
    ),
    "sweep": Command(
        f"sweep in/tuned --negate in/v.safetensors --alpha 0,{{}} --budget 9 {_TEXTS} {_ASKED} -o out/sweep",
        _ALPHAS, "out/sweep", is_heavy=True,
    ),
    "importance": Command(
        "importance in/{} --forget in/forget.txt --retain in/retain.txt --block-size 16 -o out/w.safetensors",
        ("base", "tuned"), "out/w.safetensors", is_heavy=True,
    ),
    "attack": Command(
        "attack in/edited --forget in/forget.txt --attacks relearn,quantise --relearn-steps 1 "
        f"{_ASKED} --seed {{}} -o out/attack",
        _SEEDS, "out/attack", is_heavy=True,
    ),
    "relate --plot": Command(
        "relate in/v.safetensors in/{} --plot out/plot.svg", ("w.safetensors", "lora"), "out/plot.svg", is_heavy=True
    ),
    "relate -o": Command(
        "relate in/v.safetensors in/{} -o out/relate", ("w.safetensors", "lora"), "out/relate", is_heavy=True
    ),
    "score --csv": Command("score in/{} --csv out/table.csv", ("records", "records2"), "out/table.csv"),
    "score -o": Command("score in/{} -o out/scores", ("records", "records2"), "out/scores", is_heavy=True),
    "report": Command("report in/{} -o out/report.html", ("records", "records2"), "out/report.html", is_heavy=True),
    "unlearn": Command(
        "unlearn in/base --forget in/forget.txt --retain in/retain.txt --quick --keep 0 --alpha 0,1 --budget 9 "
        f"{_ASKED} --num-train-epochs 2 --seed {{}} -o out/run",
        _SEEDS, "out/run", is_heavy=True, in_stages=True,
    ),
    "clean": Command("clean out/run --forget-data", output="out/run", start="in/run"),
    "demo": Command(
        "demo --model in/base --quick --seed {} -o out/demo", _SEEDS, "out/demo", is_heavy=True, in_stages=True
    ),
}  # fmt: skip
"""Those that write, by name."""

PRINTING = {
    "score": Command("score in/records"),
    "diff": Command("diff in/base in/tuned"),
    "ood": Command("ood in/v.safetensors in/w.safetensors --gamma 0.8,-0.6"),
}
"""Those that only print, for faults of what they print into."""


def make_inputs(folder: Path, commands: Iterable[Command]) -> None:
    """Write what commands read: models in several shards, vectors, adapters, texts, a recipe, records.

    In a process of its own: this one would be slower to fork with a model library in it.

    :param folder: Where.
    :param commands: Those that are to be run.
    """
    from taskarith.edit.apply import apply
    from taskarith.evaluation.evaluate import evaluate
    from taskarith.training.finetune import finetune
    from taskarith.vectors.extract import extract

    folder.mkdir()
    base = str(_make_model(folder / "base", 0))
    for number, name in enumerate(("tuned", "other"), start=1):
        _make_model(folder / name, number)
    v, w = folder / "v.safetensors", folder / "w.safetensors"
    for name, vector in (("tuned", v), ("other", w)):
        extract(base, str(folder / name), vector)
    for number, name in enumerate(("forget.txt", "retain.txt")):
        words = [_NONSENSE[(index * (5 + number) + index // 7) % len(_NONSENSE)] for index in range(60)]
        (folder / name).write_text(" ".join(words) + "\n", encoding="utf-8")
    recipe = "model: in/base\noperands: [in/v.safetensors, in/w.safetensors]\nmethod: {name: ties, density: 0.5}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    called = " ".join(word for one in commands for word in (one.words, *one.values))
    if "lora" in called:
        for name, seed in (("lora", 1), ("lora2", 2)):
            text, size = str(folder / "forget.txt"), {"max_steps": 2, "block_size": 16}
            finetune(base, [text], folder / name, lora=True, lora_rank=2, seed=seed, **size)
    if "records" in called:
        for name, model in (("records", base), ("records2", str(folder / "tuned"))):
            texts = {"forget": str(folder / "forget.txt")}
            evaluate([model], texts, output_dir=folder / name, prompts=0, block_size=16)
    models = {"edited": base, "edited2": str(folder / "other")} if "edited" in called or "twice" in called else {}
    for name, model in models.items():
        apply(model, negate=[str(v)], output_dir=folder / name)
        again = folder / name.replace("edited", "twice")  # what undo restores has a record, so it may be replaced
        apply(str(folder / name), negate=[str(w)], output_dir=again, keep_undo=True)
    if any(one.start for one in commands):
        _make_run(folder)


def _make_run(folder: Path) -> None:
    from taskarith.evaluation.measurement import Measurement
    from taskarith.unlearning.unlearn import unlearn

    asked = Measurement(block_size=16, prompts=2, prompt_tokens=4, continuation_tokens=4)
    texts, few = (str(folder / "forget.txt"), str(folder / "retain.txt")), {"num_train_epochs": 2.0, "keep": 0.0}
    unlearn(
        str(folder / "base"),
        *texts,
        folder / "run",
        quick=True,
        budget=9.0,
        alphas=(0.0, 1.0),
        measurement=asked,
        **few,
    )


def _make_model(folder: Path, seed: int) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(letters), hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += (0.01 if seed else 0) * torch.randn_like(parameter)
    model.save_pretrained(folder, max_shard_size="150KB")
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"eos_token": "<end>", "pad_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder
