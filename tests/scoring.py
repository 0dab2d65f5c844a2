"""Records and logs made by hand, and the command that scores them."""

from __future__ import annotations

import json
import math

import numpy as np
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.evaluation.records import loss_record, token_fields

LN2 = math.log(2)


def run(*arguments):
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def tofu_log(rows):
    """Write rows of (loss, paraphrased loss, perturbed losses, true answer, generated answer) as TOFU does."""
    ids = list(map(str, range(len(rows))))
    keys = ["avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss"]
    log = {key: dict(zip(ids, [row[n] for row in rows], strict=True)) for n, key in enumerate(keys)}
    log["generated_text"] = {n: ["Who?", row[4], row[3]] for n, row in zip(ids, rows, strict=True)}
    log["rougeL_recall"] = dict.fromkeys(ids, 0.123)  # not read
    return log


def forget_log(ratios):
    """Truth ratios are those given: the wrong answer has probability 1, the paraphrase 1 / ratio."""
    return tofu_log([(LN2, math.log(ratio), [0.0], "the answer", "an answer") for ratio in ratios])


HAND_MADE = {
    "eval_log_forget.json": forget_log([1, 2, 3, 4]),
    # probability 1/2 and 1/4, ROUGE recall 1/2 and 1, truth ratio 1/4 and 4
    "eval_log.json": tofu_log(
        [
            (LN2, LN2, [2 * LN2, 4 * LN2], "one two three four", "Four: one two!"),
            (2 * LN2, 3 * LN2, [LN2, LN2], "the dogs", "the dog"),
        ]
    ),
    # normalised probability 1/2 and 1/2, ROUGE recall 1 and 0, truth ratio 1/2 and 1
    "eval_real_author_wo_options.json": tofu_log(
        [(LN2, LN2, [2 * LN2, 2 * LN2], "Ann", "It is Ann."), (LN2, LN2, [LN2], "Bob", "It is Ann.")]
    ),
    # normalised probability 1/2, ROUGE recall 1, truth ratio 1/2
    "eval_real_world_wo_options.json": tofu_log([(LN2, LN2, [2 * LN2, 2 * LN2], "Paris", "Paris")] * 2),
}


def write_logs(folder, logs, aggregated=False):
    folder.mkdir(exist_ok=True)
    for name, log in {"eval_log_aggregated.json": logs}.items() if aggregated else logs.items():
        (folder / name).write_text(json.dumps(log), encoding="utf-8")
    return folder


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def losses(model, text, rows, **more):
    """Loss records with every field, made from rows of token losses."""
    return [
        loss_record(
            model,
            text,
            f"s{n}",
            float(np.sum(row)),
            len(row),
            sum(loss < 1 for loss in row),
        )
        | token_fields(
            **{"losses": row, "hits": [loss < 1 for loss in row], "z_scores": [-loss for loss in row]}
            | {"zlib_bytes": 10, "end_tokens": 0}
            | more,
        )
        for n, row in enumerate(rows)
    ]


KNOWN, UNKNOWN = [[0.5, 2, 0.25], [0.5, 0.5, 0.5], [1, 1, 4]], [[3, 3, 3], [2, 2, 5], [0.5, 2.5, 0.5]]
