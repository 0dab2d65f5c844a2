"""The steps of the demo as library calls, and the equivalent commands."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.demo.control import random_vector
from taskarith.demo.scale import TEXTS, Scale, Scores
from taskarith.edit.apply import apply
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.run import row_name
from taskarith.progress import Listener
from taskarith.sweeps.sweep import Sweep, sweep
from taskarith.training.finetune import finetune
from taskarith.vectors.extract import extract

__all__ = ["Laboratory"]


@dataclass(frozen=True)
class Laboratory:
    """A demo in progress: its settings, and its steps as library calls."""

    model: str
    folder: Path
    lora: bool
    scale: Scale
    seed: int
    device: str
    listener: Listener

    def say(self, step: str) -> None:
        """Announce a step to the listener."""
        self.listener.note(f"· {step}")

    def text(self, name: str) -> Path:
        """Copy a text into the folder, cut to the length that the scale sets."""
        path = self.folder / "texts" / TEXTS[name]
        if not path.exists():
            whole = (Path(__file__).parent / "texts" / TEXTS[name]).read_text(encoding="utf-8")
            path.parent.mkdir(exist_ok=True)
            path.write_text(whole[: self.scale.characters], encoding="utf-8")
        return path

    def learn_all(self) -> Path:
        """Fine-tune on all three texts; a LoRA adapter is merged into the base, to have a model to edit."""
        self.say("fine-tuning on all three texts")
        if not self.lora:
            return self._finetune(list(TEXTS), "tuned", self.scale.epochs_all)
        adapter = self._finetune(list(TEXTS), "tuned-adapter", self.scale.epochs_all)
        return apply(self.model, add=[str(adapter)], output_dir=self.folder / "tuned").path

    def learn_one(self, name: str) -> Path:
        """Fine-tune the base on one text and return its vector: a file, or with LoRA the adapter folder."""
        self.say(f"fine-tuning the base on the {name} text alone, for its task vector")
        learned = self._finetune([name], f"learned-{name}", self.scale.epochs_one)
        if self.lora:
            return learned
        vector = extract(self.model, str(learned), self.folder / f"{name}.safetensors").path
        shutil.rmtree(learned)  # base + vector restores it
        return vector

    def sweep(self, tuned: Path, vector: Path) -> Sweep:
        """Measure the base, and the tuned model minus alpha times a vector, and choose alpha, by `sweep`."""
        return sweep(
            str(tuned),
            self._data,
            negate=[str(vector)],
            alphas=self.scale.alphas,
            reference=self.model,
            prompts=self.scale.prompts,
            **self._measured,
        )

    def control(self, tuned: Path, vectors: Mapping[str, Path], curve: Mapping[float, Scores]) -> dict[str, Scores]:
        """Subtract each text's vector from the tuned model, and a random one with the norms of the forgotten text's."""
        self.say("control: the tuned model minus the vector of each text in turn, and minus a random one")
        like = vectors["forgotten"]
        if self.lora:
            like = extract(self.model, str(like), self.folder / "forgotten.safetensors").path
        noise = self.folder / "random.safetensors"
        random_vector(like, noise, self.seed)
        scores_of = {"forgotten": curve[1.0]}
        for name, vector in (*list(vectors.items())[1:], ("random", noise)):
            rows = evaluate([str(tuned)], self._data, negate=[str(vector)], alphas=[1.0], prompts=0, **self._measured)
            scores_of[name] = rows.scores.by_text[row_name(str(tuned), 1.0)]
        noise.unlink()
        return scores_of

    def commands(self, recommended: float | None) -> tuple[str, ...]:
        """Return the equivalent commands, except the control: `eval` with the other texts' vectors at alpha 1."""
        model, scale = shlex.quote(self.model), self.scale
        files = {name: shlex.quote(str(self.folder / "texts" / file)) for name, file in TEXTS.items()}
        options = f"--block-size {scale.block_size} --learning-rate {self._rate:g} --per-device-train-batch-size "
        options += f"{scale.batch_size} --seed {self.seed}{' --lora' if self.lora else ''} --num-train-epochs"
        everything = " ".join(f"--data {file}" for file in files.values())
        named = " ".join(f"--data {name}={file}" for name, file in files.items())
        measured = f"--prompts {scale.prompts} --prompt-tokens {scale.prompt_tokens}"
        measured += f" --continuation-tokens {scale.continuation_tokens} --block-size {scale.measured_block_size}"
        alphas = ",".join(f"{alpha:g}" for alpha in scale.alphas)
        options_all, options_one = f"{options} {scale.epochs_all}", f"{options} {scale.epochs_one}"
        lines = [f"taskarith finetune {model} {everything} {options_all} -o {'adapter' if self.lora else 'tuned'}"]
        lines += ["taskarith apply --add adapter -o tuned"] if self.lora else []
        lines.append(f"taskarith finetune {model} --data {files['forgotten']} {options_one} -o learned")
        vector = "learned" if self.lora else "forget.safetensors"
        lines += [] if self.lora else [f"taskarith extract learned -o {vector}"]
        lines.append(f"taskarith sweep tuned --negate {vector} --alpha {alphas} --reference {model} {named} {measured}")
        if recommended is not None:
            lines.append(f"taskarith apply tuned --negate {vector} --alpha {recommended:g} -o edited")
        return tuple(lines)

    @property
    def _rate(self) -> float:
        return self.scale.learning_rate * (15 if self.lora else 1)

    def _finetune(self, names: Sequence[str], output: str, epochs: int) -> Path:
        return finetune(
            self.model,
            [str(self.text(name)) for name in names],
            self.folder / output,
            lora=self.lora,
            block_size=self.scale.block_size,
            learning_rate=self._rate,
            num_train_epochs=epochs,
            per_device_train_batch_size=self.scale.batch_size,
            seed=self.seed,
            device=self.device,
            listener=self.listener,
        ).output_dir

    @property
    def _data(self) -> dict[str, str]:
        return {name: str(self.text(name)) for name in TEXTS}

    @property
    def _measured(self) -> dict[str, Any]:
        scale = self.scale
        lengths = {name: getattr(scale, name) for name in ("prompt_tokens", "continuation_tokens")}
        lengths["block_size"] = scale.measured_block_size
        return {**lengths, "device": self.device, "seed": self.seed, "listener": self.listener}
