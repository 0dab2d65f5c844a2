"""Hash every output of every command on tiny models, so that two commits can be compared.

Usage: python benchmarks/outputs.py --output before.json, and at another commit --against before.json. It calls the
command line in this process and imports nothing else of taskarith, so it also runs with PYTHONPATH at another commit.
Weights are hashed byte for byte with the names, dtypes, shapes and offsets of their header; records and printed
results without versions, times, digests of such, command lines and the place of the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from outputs_inputs import MERGEKIT, make_inputs

_PARTS = ("vectors", "edits", "merges", "looks", "trained")
_VOLATILE = {
    "versions",
    "command",
    "time",
    "seconds",
    "tokens_per_second",
    "mfu",
    "digest",
    "files",
    "started",
    "finished",
    "created",
    "release",
}
_VOLATILE |= {
    "header_sha256",
    "read_rate",
    "write_rate",
    "tokens_per_second",
    "samples_per_second",
    "elapsed",
    "taskarith_version",
    "transformers_version",
}
_METHODS = {
    **{name: f"--method {name} --density 0.5" for name in ("ties", "dare_linear", "dare_ties", "della")},
    **{name: f"--method {name} --density 0.5" for name in ("della_linear", "breadcrumbs", "breadcrumbs_ties", "rows")},
    **{name: f"--method {name}" for name in ("slerp", "model_stock", "tsv", "iso_c", "wudi", "negmerge")},
    "low_rank": "--method low_rank --rank 2",
    "ties mean": "--method ties --density 0.3 --normalize",
    "dare sums": "--method dare_linear --density 0.3 --no-rescale --normalize --seed 7",
    "project": "--method project --protect base/protected",
    "perta": "--method perta --weights weights.safetensors",
}
_FORMS = {
    **{dtype: f"--dtype {dtype}" for dtype in ("float32", "float64", "bfloat16", "float16")},
    **{f"bits{bits}": f"--bits {bits}" for bits in (8, 4, 1)},
    "exact": "--exact",
    "sparse": "--top-k 0.1",
    "each": "--top-k 0.1 --top-k-per tensor",
    "rows": "--rows 0.2",
}


def main() -> None:
    """Run the commands, print the table, and compare it with another one if that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--against", type=Path, help="JSON file of another commit; exit code 1 if anything differs")
    parser.add_argument("--folder", type=Path, help="where to work, and what to keep; by default a temporary folder")
    parser.add_argument("--only", default="", help="regular expression: print and compare these rows only")
    parser.add_argument("--parts", nargs="+", default=_PARTS, choices=_PARTS, help="in this order; all need vectors")
    options = parser.parse_args()
    output = options.output and options.output.absolute()
    other = json.loads(options.against.read_text()) if options.against else None
    folder = Path(options.folder or tempfile.mkdtemp(prefix="outputs-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.chdir(folder):
            found = dict(_Commands(folder).rows(options.parts))
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    if output:
        output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    wanted = re.compile(options.only)
    if other is None:
        for row, value in found.items():
            if wanted.search(row):
                print(f"{_hash(value.encode())[:16]}  {row}")
        return
    sys.exit(_compare(other, found, wanted))


def _compare(before: Mapping[str, str], after: Mapping[str, str], wanted: re.Pattern[str]) -> int:
    rows = [row for row in dict.fromkeys([*before, *after]) if wanted.search(row)]
    different = [row for row in rows if before.get(row) != after.get(row)]
    for row in different:
        old, new = (values.get(row, "(there is none)").splitlines() or [""] for values in (before, after))
        changed = [pair for pair in zip(old, new, strict=False) if pair[0] != pair[1]] or [(old[-1], new[-1])]
        print(f"DIFFERENT  {row}\n    before  {changed[0][0].strip()[:200]}\n    after   {changed[0][1].strip()[:200]}")
    print(f"{len(rows) - len(different)} of {len(rows)} outputs are equal")
    return int(bool(different))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Commands:
    """Every command, in an order in which what one writes is there for the next.

    :param folder: The current folder, which is empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def rows(self, parts: Iterable[str] = _PARTS) -> Iterator[tuple[str, str]]:
        """Return what is compared, with its hash or, where it is short text, the text."""
        make_inputs()
        for path in sorted(Path().rglob("*.safetensors")):
            yield f"inputs: {path}", _hash(path.read_bytes())
        for part in parts:
            for name, command, *outputs in getattr(self, f"_{part}")():
                yield from self._run(name, command, [Path(output) for output in outputs])

    def _vectors(self) -> Iterator[tuple[str, ...]]:
        """Extract in every form, of every dtype of weights; edit with each; combine."""
        for kind in ("llama", "qwen", "gpt"):
            base, tuned = f"{kind}/base", f"{kind}/tuned"
            for form, options in _FORMS.items():
                out = f"{kind}/{form}.safetensors"
                yield f"extract {kind} {form}", f"extract {base} {tuned} {options} -o {out}", out
                to = f"{kind}/minus-{form}"
                yield f"apply {kind} {form}", f"apply {base} --negate {out} --alpha 0.7 -o {to}", to
            yield f"restore {kind}", f"apply {base} --add {kind}/exact.safetensors -o {kind}/again", f"{kind}/again"
            yield f"restored {kind}", f"diff {tuned} {kind}/again"
            yield f"rank {kind}", f"extract {base} {tuned} --rank 3 -o {kind}/rank", f"{kind}/rank"
            yield f"energy {kind}", f"extract {base} {tuned} --energy 0.5 -o {kind}/energy", f"{kind}/energy"
            yield f"apply rank {kind}", f"apply {base} --negate {kind}/rank -o {kind}/minus-rank", f"{kind}/minus-rank"
            yield f"pair {kind}", f"apply {base} --negate {tuned}@@{base} -o {kind}/pair", f"{kind}/pair"
            yield f"lora {kind}", f"apply {base} --add {kind}/lora:0.8 -o {kind}/with-lora", f"{kind}/with-lora"
            out = f"{kind}/both.safetensors"
            both = ["combine", f"{kind}/float64.safetensors:0.6 - {kind}/exact.safetensors:0.4", "-o", out]
            yield f"combine {kind}", json.dumps(both), out
            sum_of = ["combine", f"{kind}/lora:0.6 - {kind}/second:0.5", "-o", f"{kind}/sum"]
            yield f"combine adapters {kind}", json.dumps(sum_of), f"{kind}/sum"
        yield "extract lora", "extract llama/base llama/lora -o lora.safetensors", "lora.safetensors"

    def _edits(self) -> Iterator[tuple[str, ...]]:
        """Edit with the options of ``apply``, and undo."""
        edit = "apply llama/base --add llama/tuned@@llama/base:0.5 --negate llama/other.safetensors:0.25"
        yield "extract other", "extract llama/base llama/other -o llama/other.safetensors", "llama/other.safetensors"
        for name, options in {
            "scaled": "--scale mlp=0.5 --scale layers=0..1",
            "bfloat16": "--dtype bfloat16",
            "float64": "--dtype float64",
            "shards": "--max-shard-size 20KB --sha256",
            "templated": "--chat-template gpt/base",
            "undoable": "--keep-undo",
            "jobs": "--jobs 2",
        }.items():
            yield f"apply {name}", f"{edit} {options} -o edits/{name}", f"edits/{name}"
        yield "apply dry", f"{edit} --dry-run -o edits/dry --json"
        yield "undo", "undo edits/undoable -o edits/undone", "edits/undone"
        yield "recipe", "apply --config recipe.yaml -o edits/recipe", "edits/recipe"
        yield "repeat", "apply --config edits/scaled/taskarith.json -o edits/repeated", "edits/repeated"

    def _merges(self) -> Iterator[tuple[str, ...]]:
        """Merge by every method, and as mergekit's files say."""
        texts = "--forget forget.txt --retain retain.txt --block-size 16"
        for kind in ("gradient", "fisher"):
            out = "weights.safetensors" if kind == "gradient" else "fisher.safetensors"
            yield f"importance {kind}", f"importance llama/base {texts} --kind {kind} -o {out}", out
        for kind in ("llama", "qwen"):
            operands = f"--add {kind}/tuned@@{kind}/base:0.7 --add {kind}/other@@{kind}/base:0.4"
            for name, options in _METHODS.items():
                if kind == "qwen" and name == "perta":
                    continue
                how = options.replace("base/protected", f"{kind}/float32.safetensors")
                out = f"merges/{kind}-{name.replace(' ', '-')}"
                yield f"merge {kind} {name}", f"apply {kind}/base {operands} {how} --alpha 0.9 -o {out}", out
            adapters = f"--add {kind}/lora --add {kind}/second:0.5 --method core_space --density 0.5"
            yield f"merge {kind} core", f"apply {kind}/base {adapters} -o merges/{kind}-core", f"merges/{kind}-core"
        for method in MERGEKIT:
            yield f"mergekit {method}", f"apply --config {method}.yaml -o mergekit/{method}", f"mergekit/{method}"

    def _looks(self) -> Iterator[tuple[str, ...]]:
        """Look at what was written."""
        looked = ["llama/base", "llama/lora", *(f"qwen/{form}.safetensors" for form in _FORMS), "edits/scaled"]
        for path in looked:
            yield f"inspect {path}", f"inspect {path} --json"
        yield "inspect in words", "inspect qwen/sparse.safetensors"
        for one, other in (("qwen/base", "qwen/pair"), ("qwen/float32.safetensors", "qwen/bits4.safetensors")):
            yield f"diff {one}", f"diff {one} {other} --json"
        yield "diff in words", "diff llama/base edits/scaled"
        for path in ("edits/scaled", "merges/qwen-ties", "merges/qwen-tsv", *(f"qwen/{form}" for form in _FORMS)):
            known = path if Path(path).is_dir() else f"{path}.safetensors"
            yield f"verify {known}", f"verify {known} --json"
        pair = "llama/float32.safetensors llama/other.safetensors"
        texts = "--data a=forget.txt --data b=retain.txt --block-size 16 --inputs 4"
        yield "relate", f"relate {pair} --rank 2 --plot cosines.svg --json", "cosines.svg"
        yield "relate data", f"relate {pair} {texts}"
        yield "ood", f"ood {pair} --gamma 0.8,-0.6 --cap 2 --json"
        yield "ood data", f"ood {pair} --data t=forget.txt --block-size 16 --inputs 4 --json"

    def _trained(self) -> Iterator[tuple[str, ...]]:
        """Train, measure, search and attack."""
        for name, options in {
            "full": "--data forget.txt --retain retain.txt",
            "lora": "--data rows.jsonl --lora --lora-rank 2 --apply-chat-template",
        }.items():
            train = f"finetune gpt/base {options} --max-steps 3 --learning-rate 1e-2 --block-size 16 -o runs/{name}"
            yield f"finetune {name}", train, f"runs/{name}"
        yield "apply trained", "apply --negate runs/lora -o runs/without", "runs/without"
        small = "--prompts 2 --prompt-tokens 8 --continuation-tokens 4 --block-size 16 --batch-size 4"
        texts = "--data forget=forget.txt --data holdout=retain.txt"
        evaluate = f"eval gpt/base runs/full --retain gpt/other {texts} {small} --draws 2 --gradient-norms -o runs/eval"
        yield "eval", evaluate, "runs/eval"
        yield "eval edit", f"eval gpt/base --negate runs/lora --alpha 0,0.5,1 {texts} {small} --json"
        yield "eval recipe", f"eval llama/base --recipe recipe.yaml {texts} {small} --json"
        yield "score", "score runs/eval --retain gpt/other --json"
        yield "score in words", "score runs/eval --retain gpt/other"
        texts = "--data forget=forget.txt --data retain=retain.txt"
        sweep = f"sweep runs/full --negate runs/full@@gpt/base --reference gpt/base {texts} {small}"
        yield "sweep", f"{sweep} --alpha 0,0.5,1 -o runs/sweep", "runs/sweep"
        yield "sweep search", f"{sweep} --search 2 --alpha 0:1:0.5 -o runs/search", "runs/search"
        yield "sweep gradient", f"{sweep} --gradient 2 --by layer --alpha 0:1:0.5 -o runs/gradient", "runs/gradient"
        attack = f"attack runs/without --forget forget.txt --before gpt/base --retain gpt/other {small} --prefixes 4"
        yield "attack", f"{attack} --relearn-steps 1,2 -o runs/attack", "runs/attack"

    def _run(self, name: str, command: str, outputs: list[Path]) -> Iterator[tuple[str, str]]:
        from typer.testing import CliRunner

        from taskarith.cli.main import app

        words = json.loads(command) if command.startswith("[") else command.split()
        result = CliRunner().invoke(app, words)
        if result.exit_code not in {0, 1} or (outputs and result.exit_code):
            print(f"{name}: exit code {result.exit_code}: {result.output[-500:]}", file=sys.stderr)
        yield f"{name}: exit code", str(result.exit_code)
        yield f"{name}: printed", self._text(result.stdout)
        for output in outputs:
            for path in sorted(output.rglob("*")) if output.is_dir() else [output]:
                if path.is_file():
                    yield f"{name}: {path}", self._content(path)

    def _content(self, path: Path) -> str:
        """Return what of a file must be equal: a hash, or text."""
        if path.suffix == ".safetensors":
            content = path.read_bytes()
            size = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + size])
            described = self._text(json.dumps(header.pop("__metadata__", {}), sort_keys=True))
            return f"{_hash(json.dumps(header).encode() + content[8 + size :])}\n{described}"
        try:
            return self._text(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            return _hash(path.read_bytes())

    def _text(self, text: str) -> str:
        """Return text without what differs from run to run; JSON and its lines in one form."""
        try:
            text = json.dumps(_plain(json.loads(text)), indent=1)
        except ValueError:
            with contextlib.suppress(ValueError):
                text = "\n".join(json.dumps(_plain(json.loads(line))) for line in text.splitlines())
        for place in (str(self._folder), os.fspath(self._folder.parent)):
            text = text.replace(place, "FOLDER")
        for pattern, word in _UNSTEADY:
            text = pattern.sub(word, text)
        return text if len(text) < 4000 else f"{_hash(text.encode())}"


_UNSTEADY = (
    (re.compile(r"^command .*$", re.MULTILINE), "command"),
    (re.compile(r"\b[\d.,]+ ?(?:ms|s|seconds|minutes|min|h|tokens/s|[kMG]?B/s)\b"), "TIME"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.+]+"), "TIME"),
    (re.compile(r"\b[\d.]+ [kMG]B of memory\b"), "MEMORY"),
)


def _plain(value: Any, key: str = "") -> Any:
    """Return JSON without versions, times and what depends on them; JSON in strings is read, too."""
    if isinstance(value, dict):
        return {name: _plain(one, name) for name, one in value.items() if name not in _VOLATILE}
    if isinstance(value, list):
        return [_plain(one, key) for one in value]
    if isinstance(value, str) and value[:1] in {"{", "["}:
        with contextlib.suppress(ValueError):
            return _plain(json.loads(value), key)
    return value


if __name__ == "__main__":
    main()
