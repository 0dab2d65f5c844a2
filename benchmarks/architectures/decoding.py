"""`python -m benchmarks.architectures.decoding`: which architectures `decode` continues, and whether like `generate`.

Windows are raised above the text, so that models with one are tried, too. It fails where any token differs, also with
passes recorded as on a GPU, for which a stand-in repeats operators on the CPU.
"""

from __future__ import annotations

from collections import Counter

import torch
from transformers import GenerationConfig, PreTrainedModel

from benchmarks.architectures.population import build, population
from benchmarks.architectures.recipes import VOCABULARY
from benchmarks.architectures.recording import cannot_be_recorded, recorded
from taskarith.evaluation.decoding import Job, decode
from taskarith.evaluation.grouping import decodes_alike

_LIMIT, _WINDOW = 12, 4096
_LENGTHS = (5, 17, 9, 3, 24, 24, 70, 90)


def main() -> None:
    """Try all, print those whose tokens differ, and the count of each outcome."""
    counts: Counter[str] = Counter()
    for name in population():
        outcome = _try(name)
        counts[outcome.partition(":")[0]] += 1
        if outcome.startswith("differs"):
            print(f"{name} {outcome}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    if counts["differs"]:
        raise SystemExit(1)


def _try(name: str) -> str:
    rows = _rows()
    try:
        model = _model(name)
        right = [_generated(model, row) for row in rows]
    except Exception as error:  # what transformers itself does not generate with is nothing to compare with
        return f"not generated: {type(error).__name__}"
    if not decodes_alike(model, rows, _LIMIT):
        return "left to generate"
    if differing := _differing(model, rows, right):
        return f"differs: {differing}"
    with recorded() as counts:
        if differing := _differing(model, rows, right):
            return f"differs: recorded, {differing}"
    if why := cannot_be_recorded(model):
        print(f"{name} is not recorded on a GPU: {why}", flush=True)
        return "decoded alike, not to be recorded"
    return "decoded alike" if counts.replayed else "differs: nothing was recorded"


def _differing(model: PreTrainedModel, rows: list[tuple[int, ...]], right: list[list[int]]) -> str:
    with torch.inference_mode():
        for truths, slots in ((right, 3), (right[::-1], 4), ([()] * len(rows), 99)):
            made = decode(model, Job(rows, truths, _LIMIT, lambda _, __: False, lambda _: None), slots)
            if count := sum(one != two for one, two in zip(made, right, strict=True)):
                return f"{count} of {len(rows)} rows with {slots} slots"
    return ""


def _rows() -> list[tuple[int, ...]]:
    """Return rows of several lengths, some of which begin like others."""
    noise = torch.Generator().manual_seed(0)
    shared, *alone = (torch.randint(2, VOCABULARY, (length,), generator=noise).tolist() for length in (40, *_LENGTHS))
    return [*map(tuple, alone), (*shared[:20], 7), (*shared[:20], 9, 11), tuple(shared[:24]), tuple(shared[:18])]


def _model(name: str) -> PreTrainedModel:
    config = build(name).config
    for one in (config, config.get_text_config()):
        for window in ("sliding_window", "attention_chunk_size", "window_size"):
            if isinstance(getattr(one, window, None), int):
                setattr(one, window, _WINDOW)
    torch.manual_seed(0)
    model = type(build(name))(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)  # or all rows would be continued alike
    model.generation_config = GenerationConfig()
    return model


def _generated(model: PreTrainedModel, row: tuple[int, ...]) -> list[int]:
    config = GenerationConfig(max_new_tokens=_LIMIT, pad_token_id=0)
    ids = torch.tensor([row])
    with torch.inference_mode():
        (made,) = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return made[len(row) :].tolist()


if __name__ == "__main__":
    main()
