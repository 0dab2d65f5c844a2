"""Tests of the licence that a base's card names, which a stranger wrote."""

from __future__ import annotations

import os

import pytest

from taskarith.cards.licence import read_licence, read_metadata


def _card(folder, text):
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


def test_a_licence_is_read(tmp_path):
    assert read_licence(_card(tmp_path, "---\nlicense: apache-2.0\nlicense_link: https://x.org\n---\n# x\n")) == {
        "license": "apache-2.0"
    }


def test_a_licence_of_its_own_has_a_name_and_a_place(tmp_path):
    text = "---\r\nlicense: other\r\nlicense_name: our-licence\r\nlicense_link: LICENSE.md\r\n---\r\n"
    assert read_licence(_card(tmp_path, text)) == {
        "license": "other",
        "license_name": "our-licence",
        "license_link": "LICENSE.md",
    }


@pytest.mark.parametrize(
    "value",
    ["<b>mit</b>", "[mit, gpl]", "{a: b}", "MIT License", "1.0", "'mit\\n# x'", "a" * 65, "javascript:x", "../mit", ""],
)
def test_what_is_no_licence_is_left_out(tmp_path, value):
    assert read_licence(_card(tmp_path, f"---\nlicense: {value}\n---\n")) == {}


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "http://x.org", "https://x.org/<b>", "/etc/passwd", "LICENSE/../x"]
)
def test_a_link_that_is_none_is_left_out(tmp_path, link):
    text = f"---\nlicense: other\nlicense_name: x\nlicense_link: {link!r}\n---\n"
    assert read_licence(_card(tmp_path, text)) == {"license": "other", "license_name": "x"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# no metadata",
        "---\n- a\n---\n",
        "---\n: [\n---\n",
        "text\n---\nlicense: mit\n---\n",
        "---\nlicense: mit\n",
    ],
)
def test_a_card_without_metadata_names_nothing(tmp_path, text):
    assert read_metadata(_card(tmp_path, text)) == {}


def test_a_card_that_cannot_be_read_names_nothing(tmp_path):
    assert read_licence(tmp_path) == {}
    os.mkfifo(tmp_path / "README.md")
    assert read_licence(tmp_path) == {}


def test_a_card_of_another_encoding_names_nothing(tmp_path):
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\n---\n\xff")
    assert read_licence(tmp_path) == {}
