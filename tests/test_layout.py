"""The tests mirror the package: the test of a module is found by its path."""

from __future__ import annotations

from pathlib import Path

_TESTS = Path(__file__).parent
_PACKAGE = _TESTS.parent / "taskarith"


def test_every_module_has_its_test_at_its_path():
    modules = {path.relative_to(_PACKAGE) for path in _PACKAGE.rglob("*.py")}
    modules = {path for path in modules if path.name not in {"__init__.py", "__main__.py"}}
    lacking = {path for path in modules if not (_TESTS / path.parent / f"test_{path.name}").exists()}
    assert len(modules) > 200
    assert sorted(map(str, lacking)) == []
