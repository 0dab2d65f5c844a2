"""What the tests of fine-tuning share: quick options, a listener that remembers, weights compared, and fixtures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from preloaded import run_together
from safetensors.torch import load_file
from transformers import AutoTokenizer

from taskarith.training.finetune import finetune

QUICK: dict[str, Any] = {
    "block_size": 32,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 4,
    "device": "cpu",
    "bf16": False,  # a CPU may be fast at it: then what is equal in float32 would not be
}

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def quick(**more: Any) -> dict[str, Any]:
    """Return the options of a training of a second, some of them replaced."""
    return {**QUICK, **more}


class Notes:
    """Remembers what a user would see; interrupts like Ctrl-C after a number of steps."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[str, float, float]] = []
        self.interrupt_after = interrupt_after

    def note(self, message: str) -> None:
        self.notes.append(message)

    def progress(self, what: str, done: float, total: float) -> None:
        self.steps.append((what, done, total))
        if done == self.interrupt_after:
            raise KeyboardInterrupt


def tokenizer_of(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


def distance(first: Path, second: Path) -> float:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    return max((one[name].double() - two[name].double()).abs().max().item() for name in one)


@pytest.fixture(name="one_thread", scope="module")
def one_thread_fixture():
    """Tiny matrices are slower on several threads, and much slower where other processes want the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(name="run_on_two", scope="session")
def run_on_two_fixture(preloaded) -> Callable[..., None]:
    """Run Python code in a folder as two processes that train together."""

    def run(code: str, folder: Path, **environment: str) -> None:
        done = run_together(2, preloaded / "preloaded-python", ["-c", code], folder, **environment)
        assert [each.returncode for each in done] == [0, 0], "\n".join(each.stderr for each in done)

    return run


@pytest.fixture(name="text", scope="session")
def text_fixture(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "forget.txt"
    path.write_text(tiny.text(16), encoding="utf-8")
    return str(path)


@pytest.fixture(name="other", scope="session")
def other_fixture(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "retain.txt"
    path.write_text(tiny.text(8, seed=9), encoding="utf-8")
    return str(path)


@pytest.fixture(name="ragged", scope="session")
def ragged_fixture(tmp_path_factory) -> tuple[str, str]:
    """Rows of all lengths: prompts with completions, and chats."""
    words, folder = tiny.text(40).split(), tmp_path_factory.mktemp("data")
    texts = [" " + " ".join(words[row : row + 1 + 5 * row % 19]) for row in range(24)]
    prompts = [{"prompt": "The" + text[:row], "completion": text} for row, text in enumerate(texts[:16])]
    chats = [[{"role": "user", "content": "Where?"}, {"role": "assistant", "content": text}] for text in texts[16:]]
    for name, rows in (("prompts", prompts), ("chats", [{"messages": chat} for chat in chats])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(folder / "prompts.jsonl"), str(folder / "chats.jsonl")


@pytest.fixture(name="tuned", scope="session")
def tuned_fixture(tmp_path_factory, phi, text) -> Path:
    """The tiny Phi, trained for two steps."""
    return finetune(str(phi), [text], tmp_path_factory.mktemp("tuned") / "out", **QUICK).output_dir
