"""A report as one page of HTML: what it holds, and how it is written. Nothing in it is taken for markup."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from taskarith.report.glossary import glossary_of
from taskarith.report.samples import Sample
from taskarith.report.tables import TableRows

__all__ = ["Figure", "Layers", "Page", "Part", "render"]

_TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Figure:
    """A drawing.

    :param title: What it shows, for whoever cannot see it, too.
    :param svg: The drawing, which the page shows as an image: no script in it runs.
    """

    title: str
    svg: bytes

    @property
    def address(self) -> str:
        """The drawing as an address."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode('ascii')}"


@dataclass(frozen=True)
class Layers:
    """What is left per layer.

    :param sentences: What it says, and what it does not.
    :param figures: Losses at each layer, a drawing for each text that is to be forgotten.
    :param others: The same of other texts, which show what the edit does beside forgetting.
    :param tables: All these numbers.
    """

    sentences: tuple[str, ...]
    figures: tuple[Figure, ...]
    others: tuple[Figure, ...]
    tables: tuple[TableRows, ...]


@dataclass(frozen=True)
class Part:
    """One result: of an evaluation, a sweep, an attack or an edit.

    :param title: What it is.
    :param verdicts: What it says, each a sentence that a layman understands.
    :param facts: What was done, by name.
    :param tables: Its numbers.
    :param figures: Its drawings.
    :param layers: What is left per layer; None if the layers were not read.
    :param samples: Prompts with their true continuations and those of the models.
    :param remarks: What is missing or not comparable.
    :param conventions: Definitions of its numbers.
    :param command: What repeats it.
    :param digests: SHA-256 of files, by name.
    :param holders: What still holds the text that was to be forgotten.
    """

    title: str
    verdicts: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: tuple[TableRows, ...] = ()
    figures: tuple[Figure, ...] = ()
    layers: Layers | None = None
    samples: tuple[Sample, ...] = ()
    remarks: tuple[str, ...] = ()
    conventions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    holders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """A report.

    :param title: Its title.
    :param parts: What it is about, in order.
    :param limits: What it does not prove.
    :param date: When it was written.
    """

    title: str
    parts: tuple[Part, ...]
    limits: tuple[str, ...]
    date: str

    @property
    def conventions(self) -> dict[str, str]:
        """Definitions of the numbers of all parts."""
        return {name: text for part in self.parts for name, text in part.conventions.items()}

    @property
    def glossary(self) -> dict[str, str]:
        """The same numbers in plain words."""
        return glossary_of(self.conventions)

    @property
    def holders(self) -> tuple[str, ...]:
        """What still holds the text that was to be forgotten, each once."""
        return tuple(dict.fromkeys(one for part in self.parts for one in part.holders))


def render(page: Page) -> str:
    """Return a page as one file of HTML that asks for nothing else, and is readable without scripts."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(page=page)
