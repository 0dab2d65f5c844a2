"""Tests of the hub: what a repository holds stays, and what the hub refuses is told in words."""

from __future__ import annotations

import pytest

from taskarith.errors import OutputError, UsageError
from taskarith.hub.push import push


def test_other_weights_are_never_replaced(hub, edited, vector):
    hub.make("ann/edited", {"model.safetensors": b"other", "README.md": b"# x"})
    with pytest.raises(OutputError, match=r"exists and holds something else: model.safetensors"):
        push(edited, "ann/edited")
    hub.make("ann/notes", {"notes.txt": b"x"})
    with pytest.raises(OutputError, match=r"something else: notes.txt"):
        push(vector, "ann/notes")
    assert hub.repositories["ann/notes"].files() == {"notes.txt": b"x"}


def test_a_branch_is_made(hub, edited):
    hub.make("ann/edited", {})
    push(edited, "ann/edited", revision="half")
    assert hub.repositories["ann/edited"].files() == {}
    assert "model.safetensors" in hub.repositories["ann/edited"].files("half")
    assert not push(edited, "ann/edited", revision="half").is_new
    push(edited, "ann/new", revision="half")
    assert "model.safetensors" in hub.repositories["ann/new"].files("half")


def test_a_public_repository_is_not_private(hub, edited):
    hub.make("ann/edited", {})
    with pytest.raises(OutputError, match="exists and is public"):
        push(edited, "ann/edited", private=True)


@pytest.mark.parametrize("repo", ["edited", "a/b/c", "ann/x--y", "ann/<b>", "../x", "", "ann/\x1b[31m"])
def test_names_that_are_none_are_refused(hub, edited, repo):
    with pytest.raises(UsageError, match=r"cannot be the name|whose repository"):
        push(edited, repo)
    assert not hub.requests


def test_a_wrong_token_is_refused(hub, edited, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(OutputError, match="does not accept the token") as caught:
        push(edited, "ann/edited")
    assert "hf auth login" in caught.value.hint
    assert "hf_wrong" not in str(caught.value)


def test_without_a_token_nothing_is_asked(hub, edited, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OutputError, match="nobody is logged in"):
        push(edited, "ann/edited")
    assert not hub.requests


def test_somebody_elses_account_is_refused(hub, edited):
    with pytest.raises(OutputError, match="your token may not write to bob"):
        push(edited, "bob/edited")
    hub.make("bob/there", {})
    with pytest.raises(OutputError, match="your token may not write to bob"):
        push(edited, "bob/there")


def test_a_hub_that_is_not_reachable_is_named(hub, edited, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OutputError, match=r"cannot be reached at http://127.0.0.1:9"):
        push(edited, "ann/edited")


@pytest.mark.parametrize("status", [500, 429, 400])
def test_what_the_hub_answers_is_told(hub, edited, status):
    hub.fails = status
    with pytest.raises(OutputError, match=f"status {status}") as caught:
        push(edited, "ann/edited")
    assert "\n" not in caught.value.message
    hub.fails = 0
    push(edited, "ann/edited")  # what is left of it is no hindrance


def test_remarks_of_the_hub_on_the_card_are_told(hub, edited):
    hub.remark = "empty or missing yaml metadata"
    assert "empty or missing" in push(edited, "ann/edited").remarks[-1]


def test_offline_is_offline(hub, edited, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OutputError, match="HF_HUB_OFFLINE is set"):
        push(edited, "ann/edited")
    assert not hub.requests
