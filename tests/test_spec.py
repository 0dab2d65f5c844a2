"""The small languages of the command line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskarith.data.spec import DataRef, parse_data
from taskarith.errors import UsageError
from taskarith.spec import ModelRef, OperandRef, parse_alphas, parse_combination, parse_model, parse_operand, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("microsoft/phi-1_5", ModelRef("microsoft/phi-1_5")),
        ("microsoft/phi-1_5@main", ModelRef("microsoft/phi-1_5", "main")),
        ("me@home/model", ModelRef("me", "home/model")),
        ("model@", ModelRef("model@")),
    ],
)
def test_parse_model(text, expected):
    assert parse_model(text) == expected


def test_a_path_that_exists_is_taken_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model@2").mkdir()
    (tmp_path / "v:0.5").touch()
    assert parse_model("model@2") == ModelRef("model@2")
    assert parse_operand("v:0.5") == OperandRef("v:0.5", 1.0)
    assert parse_data("v:0.5") == DataRef("v:0.5")


@pytest.mark.parametrize(
    ("text", "sign", "expected"),
    [
        ("v.safetensors", 1.0, OperandRef("v.safetensors", 1.0)),
        ("v.safetensors:0.3", -1.0, OperandRef("v.safetensors", -0.3)),
        ("v:-2e-1", -1.0, OperandRef("v", 0.2)),
        ("C:model", 1.0, OperandRef("C:model", 1.0)),
    ],
)
def test_parse_operand(text, sign, expected):
    assert parse_operand(text, sign) == expected


def test_a_local_model_has_no_revisions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    with pytest.raises(UsageError, match="there is no org/model@main, and org/model is a local model"):
        parse_model("org/model@main")
    (tmp_path / "org" / "model@main").mkdir()
    assert parse_model("org/model@main") == ModelRef("org/model@main")
    assert parse_model("org/other@main") == ModelRef("org/other", "main")


@pytest.mark.parametrize("text", ["v:nan", "v:inf", "v:-inf"])
def test_parse_operand_refuses_what_is_not_finite(text):
    with pytest.raises(UsageError, match="not finite"):
        parse_operand(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", [1.0]), ("0,0.5,1", [0, 0.5, 1]), ("0:1:0.25", [0, 0.25, 0.5, 0.75, 1]), ("1:0:-0.5", [1, 0.5, 0])],
)
def test_parse_alphas(text, expected):
    assert parse_alphas(text) == expected


def test_parse_alphas_has_no_drift_and_includes_the_end():
    assert parse_alphas("0:1:0.1") == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@pytest.mark.parametrize("text", ["", "a", "0:1", "0:1:0", "0:1:-1", "nan", "1,inf", "0:1:0.1:2", "0:inf:1"])
def test_parse_alphas_refuses(text):
    with pytest.raises(UsageError, match="alpha"):
        parse_alphas(text)


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1GiB", 2**30), ("200 MB".replace(" ", ""), 2 * 10**8), ("123", 123)]
)
def test_parse_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1GB", "GB", "5XB", "nan", "infGB"])
def test_parse_size_refuses(text):
    with pytest.raises(UsageError, match="size"):
        parse_size(text)


@given(st.text(max_size=30), st.sampled_from([parse_operand, parse_alphas, parse_size, parse_data]))
def test_no_text_crashes_a_parser(text, parse):
    with contextlib.suppress(UsageError):
        assert parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chat@@base", OperandRef("chat", 1.0, base="base")),
        ("chat@@base:0.5", OperandRef("chat", 0.5, base="base")),
        ("org/chat@rev@@org/base@rev:0.5", OperandRef("org/chat@rev", 0.5, base="org/base@rev")),
        ("chat@@C:base", OperandRef("chat", 1.0, base="C:base")),
        ("chat@2:0.5", OperandRef("chat@2", 0.5)),
    ],
)
def test_an_operand_with_its_base(text, expected):
    assert parse_operand(text) == expected
    assert parse_operand(str(expected)) == expected
    assert parse_combination(f"a@@b:2 - {text}")[1].base == expected.base


def test_paths_that_exist_are_taken_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a@@b", "base:2"):
        (tmp_path / name).mkdir()
    assert parse_operand("a@@b") == OperandRef("a@@b", 1.0)
    assert parse_operand("a@@b:0.5") == OperandRef("a@@b", 0.5)
    assert parse_operand("c@@base:2") == OperandRef("c", 1.0, base="base:2")
    assert parse_operand("a@@b@@base:2:3") == OperandRef("a@@b", 3.0, base="base:2")


@pytest.mark.parametrize("text", ["chat@@", "@@base", "chat@@:0.5"])
def test_half_a_pair_is_refused(text):
    with pytest.raises(UsageError, match="cannot read the vector"):
        parse_operand(text)


def test_expressions(tmp_path, monkeypatch):
    assert parse_combination("a:0.6 - b:0.4") == [OperandRef("a", 0.6), OperandRef("b", -0.4)]
    assert parse_combination(" - a-b.safetensors + c+d") == [OperandRef("a-b.safetensors", -1), OperandRef("c+d", 1)]
    assert parse_combination("C + B - A") == [OperandRef("C", 1), OperandRef("B", 1), OperandRef("A", -1)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with blank").mkdir()
    assert parse_combination("with blank - x:2") == [OperandRef("with blank", 1), OperandRef("x", -2)]
    for text in ("", "  ", "a -", "a + - b", "+", "a:nan", "a - b:inf"):
        with pytest.raises(UsageError):
            parse_combination(text)


@pytest.mark.parametrize("text", ["", " ", "\t"])
@pytest.mark.parametrize("parse", [parse_model, parse_operand])
def test_an_empty_name_is_not_the_current_folder(parse, text):
    with pytest.raises(UsageError, match="is empty"):
        parse(text)
