"""Tests of code in Markdown: nothing in it is markup."""

from __future__ import annotations

import pytest

from taskarith.cards.markdown import code, code_block


def test_plain_text_is_between_backticks():
    assert code("forget.safetensors") == "`forget.safetensors`"


@pytest.mark.parametrize(("text", "shown"), [("a`b", "``a`b``"), ("`a`", "`` `a` ``"), ("a``b`c", "```a``b`c```")])
def test_a_fence_is_longer_than_any_that_the_text_has(text, shown):
    assert code(text) == shown


def test_no_line_ends_within_code():
    assert code("a\n\n<script>") == r"`a\n\n<script>`"
    assert code_block("x\n```\n# title").splitlines() == ["````text", r"x\n```\n# title", "````"]


def test_escapes_of_terminals_and_directions_are_shown():
    assert code("\x1b[31m\u202e") == r"`\x1b[31m\u202e`"
