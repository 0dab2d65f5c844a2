"""The example of coloured digits, with a transformer of one block that takes a few steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTForImageClassification

import taskarith
from examples.colored_digits import experiment
from examples.colored_digits.__main__ import _quick
from examples.colored_digits.data import Task, coloured, four_colours, load_splits
from examples.colored_digits.experiment import BLUE, FIRST, REGIMES, TARGET, TASKS, Plan, run, vector
from examples.colored_digits.model import Size, Training, cosine, logits, new_model, train
from examples.colored_digits.report import draw, in_region, region_agreement, tables
from examples.colored_digits.seeds import run_seeds

TINY = Plan(Size(16, 1, 16), Training(12, 1e-2), Training(6, 1e-2), (-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as several seeds have it
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return folder, run(3, folder, TINY)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_of_each_parity_exactly_the_share_has_the_agreeing_colour(share):
    part = load_splits(0).validation
    pixels, labels = coloured(part, Task("any", share), torch.Generator().manual_seed(1), moved=True)
    red, green = ((pixels[:, channel] + 1).sum(dim=(1, 2)) > 0 for channel in range(2))
    assert torch.equal(labels, part.digits % 2)
    assert torch.equal(red, ~green)
    for label in (0, 1):
        of_label = labels == label
        agreeing = (red if label else green)[of_label].sum().item()
        assert agreeing == round(share * of_label.sum().item())


@pytest.mark.parametrize("task", [FIRST, BLUE, TARGET])
def test_inks_lie_at_the_distance_of_the_task_on_the_side_of_the_label(task):
    part = load_splits(0).train
    pixels, labels = coloured(part, task, torch.Generator().manual_seed(1), moved=False)
    # the darkest pixel of an image, over the grey one: its colour from 0 to 1
    shades, places = part.images.flatten(1).max(dim=1)
    colours = (pixels.flatten(2).gather(2, places[:, None, None].expand(-1, 3, 1))[:, :, 0] + 1) / 2 / shades[:, None]
    torch.testing.assert_close(colours[:, 0] + colours[:, 1], torch.ones(len(part)))
    inks = torch.stack([2 * colours[:, 0] - 1, 2 * colours[:, 2] - 1], dim=1)
    assert inks.abs().max() <= 1 + 1e-5
    angle = torch.deg2rad(torch.tensor(task.angle))
    distances = inks[:, 0] * angle.cos() + inks[:, 1] * angle.sin()
    across = inks[:, 1] * angle.cos() - inks[:, 0] * angle.sin()
    torch.testing.assert_close(distances.abs(), torch.full((len(part),), task.along))
    assert ((distances > 0) == (labels == 1)).float().mean().item() == pytest.approx(0.97, abs=1e-3)
    assert across.abs().max() == pytest.approx(task.across, abs=0.01)
    assert abs(across.mean()) < 0.06 * task.across


def test_neither_vector_of_the_target_can_tell_its_inks_alone():
    # a border along one axis is wrong wherever the part across outweighs the part along: 0.4 of 1.8 of its range
    part = load_splits(0).train
    pixels, labels = coloured(part, replace(TARGET, share=1.0), torch.Generator().manual_seed(1), moved=False)
    lightest = pixels.amax(dim=(2, 3))
    red, blue = lightest[:, 0] > lightest[:, 1], lightest[:, 2] > lightest[:, :2].sum(dim=1) / 2
    odd = labels == 1
    assert (red == odd).float().mean().item() == pytest.approx(1 - 0.4 / 1.8, abs=0.04)
    assert (blue == odd).float().mean().item() == pytest.approx(1 - 0.4 / 1.8, abs=0.04)


def test_pre_training_sees_ten_digits_in_four_colours():
    part = load_splits(0).train
    pixels, labels = four_colours(part, torch.Generator().manual_seed(1), moved=False)
    assert torch.equal(labels % 10, part.digits)
    assert sorted(set(labels.tolist())) == list(range(40))
    lightest = pixels.amax(dim=(2, 3))
    assert torch.equal(lightest[:, 0] > lightest[:, 1], labels // 10 % 2 == 1)


def test_training_ends_at_the_loss_that_is_enough_or_at_the_last_step():
    size, generator = Size(16, 1, 16), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    pixels = torch.randn(64, 3, 32, 32, generator=generator)
    labels = (pixels[:, 0].mean(dim=(1, 2)) > 0).long()

    def steps(enough: float | None) -> int:
        model = new_model(size, labels=2)
        return train(model, lambda: (pixels, labels), Training(30, 1e-3, enough=enough), generator)

    assert steps(None) == 30
    assert steps(0.0) == 30
    assert steps(10.0) == 1
    assert 1 < steps(0.69) < 30


def test_splits_are_disjoint_and_follow_the_seed():
    one, again, other = load_splits(0), load_splits(0), load_splits(1)
    assert [len(part) for part in (one.train, one.validation, one.test)] == [1078, 270, 449]
    assert torch.equal(one.test.images, again.test.images)
    assert not torch.equal(one.test.images, other.test.images)
    rows = torch.cat([one.train.images, one.validation.images, one.test.images]).flatten(1)
    assert len(torch.unique(rows, dim=0)) == len(rows) == 1797


def test_the_same_seed_gives_the_same_result_and_leaves_no_models(finished, tmp_path):
    _, first = finished
    assert run_seeds([3], TINY, tmp_path) == [first]
    assert not list(tmp_path.iterdir())


def test_vectors_are_the_difference_of_the_weights_and_the_head_stays(finished):
    folder, _ = finished
    base = load_file(folder / "base" / "model.safetensors")
    for task in TASKS:
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


@pytest.mark.parametrize("plan", [Plan(), _quick(Plan())])
def test_every_plan_tries_the_model_without_a_vector(plan):
    assert 0.0 in plan.coefficients
    assert 0.0 in plan.grid
    assert min(plan.coefficients) < 0 < max(plan.coefficients)


def test_the_target_s_best_of_one_vector_has_the_other_at_zero(finished):
    _, result = finished
    first, second = result.target.single
    assert first.coefficients[1] == second.coefficients[0] == 0
    best = max(max(row) for row in result.target.grid)
    place = [TINY.grid.index(coefficient) for coefficient in result.target.best.coefficients]
    assert result.target.grid[place[0]][place[1]] == best
    alone = [result.target.grid[i][1] for i in range(3)], result.target.grid[1]
    for edit, values, axis in ((first, alone[0], 0), (second, alone[1], 1)):
        assert values[TINY.grid.index(edit.coefficients[axis])] == max(values)


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
