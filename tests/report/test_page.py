"""A page of HTML: whatever stands in a report is text."""

from __future__ import annotations

from reporting import EVIL, Page

from taskarith.report import page
from taskarith.report.samples import Piece, Sample
from taskarith.report.tables import TableRows


def test_everything_in_a_page_is_text():
    pieces = (Piece(EVIL, is_repeated=True), Piece(EVIL, is_repeated=False))
    part = page.Part(
        EVIL,
        verdicts=(EVIL,),
        facts={EVIL: EVIL},
        tables=(TableRows(EVIL, (EVIL, EVIL), ((EVIL, EVIL),)),),
        figures=(page.Figure(f'{EVIL}" onload="x', b"<svg><script>alert(1)</script></svg>"),),
        layers=page.Layers(
            (EVIL,),
            (page.Figure(EVIL, b"<svg/>"),),
            (page.Figure(EVIL, b"<svg/>"),),
            (TableRows(EVIL, (EVIL, EVIL), ((EVIL, EVIL),)),),
        ),
        samples=(Sample(EVIL, EVIL, EVIL, ((EVIL, pieces),)),),
        remarks=(EVIL,),
        conventions={EVIL: EVIL},
        command=EVIL,
        digests={EVIL: EVIL},
        holders=(EVIL,),
    )
    text = page.render(page.Page(EVIL, (part, part), (EVIL,), EVIL))
    found = Page(text)
    assert {"script", "i"} & {*found.tags} == set()
    assert found.tags.count("img") == 6
    assert {"onerror", "onload"} & {*found.attributes} == set()
    assert found.text.count(EVIL) > 20
    assert {address.partition(",")[0] for address in found.addresses} == {"data:image/svg+xml;base64"}
