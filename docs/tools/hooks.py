"""Hooks of mkdocs: pages that are elsewhere in the repository become pages of the site.

Pages link to each other by their paths in the repository, so that the links work wherever the files are shown. The site
has docs/ at its top, and the files of ``OUTSIDE`` under their own paths; links between the two are changed accordingly.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

__all__ = ["OUTSIDE", "on_files", "on_page_markdown"]

ROOT = Path(__file__).parents[2]
OUTSIDE = (
    "benchmarks/*.md",
    "examples/*/README.md",
    "examples/*/*.png",
    "examples/*/*.txt",
    "examples/*/*.sh",
    "[CS]*.md",
    "CITATION.cff",
    "LICENSE",
)
"""Files beside docs/ that pages link to."""

_LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")


def on_files(files: Any, config: Any) -> Any:
    """Add the files of ``OUTSIDE``."""
    from mkdocs.structure.files import File  # tests read OUTSIDE where mkdocs is not installed

    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Change links between docs/ and the files beside it from their paths in the repository to those on the site."""
    del config, files
    source = page.file.src_uri
    is_outside = page.file.generated_by is not None
    folder = posixpath.dirname(source if is_outside else f"docs/{source}")

    def change(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2])).removeprefix("docs/")
        return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(source) or '.')}{link[3]}"

    return _LINK.sub(change, markdown)
