"""One results file of several sections, each written by its own command."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["RESULTS", "read_section", "write_section"]

RESULTS = Path(__file__).parents[1] / "RESULTS-robustness.md"


def read_section(path: Path, title: str) -> str:
    """Return what stands below a title; nothing where there is none."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


def write_section(path: Path, title: str, text: str) -> None:
    """Put a section in the place of the one with its title, or at the end; the other sections stay as they are.

    :param path: The results file, a Markdown page whose sections start with ``## TITLE``.
    :param title: Of the section.
    :param text: What stands below the title.
    """
    page = path.read_text(encoding="utf-8") if path.exists() else "# Robustness\n"
    first, *sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    new = f"## {title}\n\n{text.strip()}\n"
    places = [place for place, section in enumerate(sections) if section.partition("\n")[0] == f"## {title}"]
    if places:
        sections[places[0]] = new
    else:
        sections.append(new)
    path.write_text("\n".join(part.strip() + "\n" for part in (first, *sections)), encoding="utf-8")
