"""The example of red and green digits, with a transformer of one block that takes a few steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTForImageClassification

import taskarith
from examples.colored_digits import experiment
from examples.colored_digits.data import Task, coloured, load_splits
from examples.colored_digits.experiment import FIRST, REGIMES, TARGET, Plan, run, vector
from examples.colored_digits.model import Size, Training, cosine, logits
from examples.colored_digits.report import draw, in_region, region_agreement, tables
from examples.colored_digits.seeds import run_seeds

TINY = Plan(Size(16, 1, 16), Training(12, 1e-2), Training(6, 1e-2), (-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, threads = tmp_path_factory.mktemp("digits"), torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes of several seeds
    result = run(3, folder, TINY)
    torch.set_num_threads(threads)
    return folder, result


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_of_each_parity_exactly_the_share_has_the_agreeing_colour(share):
    part = load_splits(0).validation
    pixels, labels = coloured(part, Task("any", share), torch.Generator().manual_seed(1), moved=True)
    red, green, blue = ((pixels[:, channel] + 1).sum(dim=(1, 2)) > 0 for channel in range(3))
    assert torch.equal(labels, part.digits % 2)
    assert torch.equal(red, ~green)
    assert not blue.any()
    for label in (0, 1):
        of_label = labels == label
        agreeing = (red if label else green)[of_label].sum().item()
        assert agreeing == round(share * of_label.sum().item())


def test_splits_are_disjoint_and_follow_the_seed():
    one, again, other = load_splits(0), load_splits(0), load_splits(1)
    assert [len(part) for part in (one.train, one.validation, one.test)] == [1078, 270, 449]
    assert torch.equal(one.test.images, again.test.images)
    assert not torch.equal(one.test.images, other.test.images)
    rows = torch.cat([one.train.images, one.validation.images, one.test.images]).flatten(1)
    assert len(torch.unique(rows, dim=0)) == len(rows) == 1797


def test_the_same_seed_gives_the_same_result_in_another_process(finished, tmp_path):
    _, first = finished
    assert run_seeds([3], TINY, tmp_path) == [first]
    assert not list(tmp_path.iterdir())


def test_vectors_are_the_difference_of_the_weights_and_the_head_stays(finished):
    folder, _ = finished
    base = load_file(folder / "base" / "model.safetensors")
    for task in (FIRST, *REGIMES.values(), TARGET):
        tuned = load_file(folder / task.name / "model.safetensors")
        deltas = load_file(vector(folder, task))
        assert deltas.keys() == base.keys() == tuned.keys()
        assert all(torch.equal(deltas[name], tuned[name] - base[name]) for name in base)
        assert all(not deltas[name].any() for name in base if name.startswith("classifier."))
        assert deltas["vit.layernorm.weight"].any()
    head = base["classifier.weight"]
    assert torch.equal(head[0], -head[1])
    assert torch.allclose(head.norm(dim=1), torch.ones(2))


def test_edits_in_memory_and_on_disk_are_arithmetic_of_state_dicts(finished, tmp_path):
    folder, _ = finished
    base, first, second = (load_file(folder / n / "model.safetensors") for n in ("base", FIRST.name, "contradictory"))
    operands = [f"{vector(folder, FIRST)}:1.0", f"{vector(folder, REGIMES['contradictory'])}:-0.6"]
    taskarith.apply(str(folder / "base"), add=operands, output_dir=tmp_path / "edited")
    written = load_file(tmp_path / "edited" / "model.safetensors")
    load = ViTForImageClassification.from_pretrained
    model, plain, edited = load(folder / "base"), load(folder / "base").state_dict(), load(tmp_path / "edited")
    with taskarith.InMemoryEdit(model, str(folder / "base"), add=operands) as edit:
        edit.set(1.0)
        for name, values in edited.state_dict().items():  # its names in memory are not those in the files
            assert torch.equal(model.state_dict()[name], values)
    assert all(torch.equal(model.state_dict()[name], values) for name, values in plain.items())
    for name, values in base.items():
        deltas = (first[name] - values).double(), (second[name] - values).double()
        expected = (values.double() + deltas[0] - 0.6 * deltas[1]).float()
        torch.testing.assert_close(written[name], expected, rtol=0, atol=1e-7)


def test_what_is_chosen_is_a_point_of_the_curve(finished):
    _, result = finished
    for regime in result.regimes.values():
        for edit, allowed in ((regime.addition, (0.0, 1.0)), (regime.negation, (-1.0, 0.0))):
            assert edit.coefficients[0] == 1.0
            assert edit.coefficients[1] in allowed
            assert edit.accuracies == regime.curve[TINY.coefficients.index(edit.coefficients[1])]
        assert regime.curve[1][0] == regime.finetuned[0]  # lambda 0: T1's own model


def test_correlation_is_the_cosine_averaged_over_the_inputs_of_both_tasks(finished):
    folder, _ = finished
    bench = experiment.Bench(folder, load_splits(3), torch.Generator().manual_seed(0))
    second = REGIMES["aligned"]
    assert bench.correlation(FIRST, FIRST) == pytest.approx(1)
    parts = []
    for task in (FIRST, second):
        outputs = [logits(bench.tuned[t.name], bench.test[task.name][0]) for t in (FIRST, second)]
        # the head makes (-f, f): the cosine is the product of two signs
        signs = torch.sign(outputs[0][:, 1]) * torch.sign(outputs[1][:, 1])
        assert cosine(*outputs) == pytest.approx(signs.mean().item(), abs=1e-5)
        parts.append(signs.mean().item())
    assert bench.correlation(FIRST, second) == pytest.approx(sum(parts) / 2, abs=1e-5)


def test_the_region_of_theorem_3_at_the_paper_s_best_point():
    gamma, best = (0.792, -0.637), (1.2, -0.6)  # sums: 1.333 and 0.509
    assert in_region(best, gamma, 0.2)
    assert in_region(best, gamma, 0.509)
    assert not in_region(best, gamma, 0.51)
    assert not in_region((1.0, 1.0), gamma, 0.2)  # 0.155 and 1.033


def test_agreement_counts_the_points_where_prediction_and_measurement_are_the_same(finished):
    _, result = finished
    # promised at 0.5: lambda1 >= 0.5 whatever lambda2, so the last row; measured within 2 points of 90: three points
    target = replace(result.target, gamma=(1.0, 0.0), finetuned=90.0)
    target = replace(target, grid=[[50.0, 50.0, 90.0], [50.0, 50.0, 50.0], [50.0, 88.0, 99.0]])
    assert region_agreement(replace(result, target=target), TINY.grid, 0.5) == pytest.approx(7 / 9)


def test_the_report_has_every_number_of_the_result(finished, tmp_path):
    _, result = finished
    text = tables([result, result], TINY)
    regime = result.regimes["irrelevant"]
    gap = regime.addition.accuracies[1] - regime.finetuned[1]
    assert f"| {regime.addition.accuracies[1]:.1f} ± 0.0 ({gap:+.1f}) |" in text
    assert f"| fine-tuned on T' | {result.target.finetuned:.1f} ± 0.0 | 92.21 |" in text
    draw([result], TINY, tmp_path / "digits.png")
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
