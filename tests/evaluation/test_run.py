"""Rows: each model once, beside a reference."""

from __future__ import annotations

import gc
import weakref

import pytest
import tiny
from evaluating import SMALL, strip, values

from taskarith.data.load import load_data
from taskarith.evaluation import models
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.metrics.membership import zlib_bytes
from taskarith.evaluation.run import row_name
from taskarith.evaluation.score import score as score_stored


def test_each_model_is_freed_before_the_next_is_loaded(phi, phi_tuned, texts, monkeypatch):
    loaded = []

    def watch(*args, **kwargs):
        gc.collect()
        assert all(reference() is None for reference in loaded)
        model = load_model(*args, **kwargs)
        loaded.append(weakref.ref(model))
        return model

    load_model = models.load_model
    monkeypatch.setattr(models, "load_model", watch)
    evaluate([str(phi), str(phi_tuned)], texts, **SMALL)
    assert len(loaded) == 2


def test_names_of_rows_differ_where_alphas_do():
    assert row_name("m", 1.0) == "m alpha=1"
    assert row_name("m", 0.1) == "m alpha=0.1"
    assert row_name("m", 0.1234567) != row_name("m", 0.1234568)


def test_a_retain_model_is_a_row_and_the_reference(phi, phi_tuned, sides, tmp_path):
    retrained = str(tiny.save_model(tmp_path / "retrained", nudge_of=phi, seed=5))
    models = [str(phi), str(phi_tuned)]
    evaluation = evaluate(models, sides, **SMALL, reference=retrained, output_dir=tmp_path / "out")
    scores = evaluation.scores
    assert scores.models == (*models, retrained)
    lacking = ["auc_gradient", "tpr", "leak_at_k of forget"]  # with five samples of holdout
    assert [list(missing) for missing in scores.missing.values()] == [lacking] * 3
    overall = scores.overall[models[1]]
    assert overall.keys() == {
        *("auc_loss", "auc_zlib", "auc_min_20", "auc_min_40", "auc_min_20_plus", "auc_min_40_plus"),
        *("auc_reference", "privleak"),
    }
    assert (scores.overall[retrained]["privleak"].value, scores.overall[retrained]["auc_reference"].value) == (0, 0.5)
    assert values(evaluation, models[1], "forget")[f"kl from {retrained}"] > 0
    assert not any(name.startswith("kl") for name in values(evaluation, retrained, "forget"))
    assert score_stored([tmp_path / "out"], reference=retrained) == scores
    plain = evaluate(models, sides, **SMALL)
    assert strip(evaluation, models[1]) == strip(plain, models[1])
    assert f"kl from {models[0]}" in values(plain, models[1], "forget")
    assert "--reference" in plain.scores.missing[models[1]]["privleak"]
    first = next(record for record in evaluation.records if record["kind"] == "loss")
    assert first["zlib_bytes"] == zlib_bytes(load_data(sides["forget"]).documents[0].text)
    assert len(first["token_losses"]) == len(first["hits"]) == len(first["z_scores"]) == first["tokens"]


def test_the_first_alpha_is_the_reference_and_later_edits_do_not_change_it(phi, phi_tuned, sides):
    found = evaluate([str(phi)], sides, **SMALL, add=[str(phi_tuned)], alphas=[0, 1])
    written = evaluate([str(phi), str(phi_tuned)], sides, **SMALL)
    edited, tuned = found.scores.models[1], str(phi_tuned)
    kl = values(found, edited, "forget")[f"kl from {phi} alpha=0"]
    assert kl == pytest.approx(values(written, tuned, "forget")[f"kl from {phi}"], rel=1e-3)
