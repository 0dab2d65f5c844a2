"""One change of Python source at a time, such as a slip would make: what tests that check something must notice."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Mutant", "mutants_of"]

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
}  # fmt: skip
_DELETED = (ast.AugAssign, ast.Raise, ast.Continue, ast.Break)
_LEFT_OUT = {"annotation", "returns", "decorator_list", "type_comment"}
_WORDS = {"hint", "help", "description", "unit", "listener", "encoding", "strict", "repr", "prefix", "title"}
"""Arguments that are words, or say twice what holds anyway."""
_SPEED = re.compile(r"_?[A-Z_]*(BLOCK|PIECE|SPAN|ROOM|HELD|COLUMNS|GLANCE|SAMPLE|LARGE|HEAD|PROBE|PAD|ELEMENTS|TILE|"
                    r"PATIENCE|WORTHWHILE|SECONDS|ODD)")  # fmt: skip
_KEY = re.compile(r"[\w./:-]+")


@dataclass(frozen=True)
class Mutant:
    """A changed module.

    :param path: Of the module, from the root of the sources.
    :param number: Among the mutants of the module.
    :param line: Where it differs.
    :param first: Of the statement that holds that line.
    :param function: Around that line, or empty.
    :param change: What stood there and what stands there now.
    """

    path: str
    number: int
    line: int
    first: int
    function: str
    change: str

    @property
    def name(self) -> str:
        """What the mutant is called when lines have moved."""
        return f"{self.path} {self.function}: {self.change}"

    def source(self, root: Path) -> str:
        """Return the text of the changed module."""
        tree = ast.parse((root / self.path).read_text(encoding="utf-8"))
        for number, _ in enumerate(_changes(tree)):
            if number == self.number:
                return ast.unparse(tree)
        raise LookupError(f"{self.path} does not have {self.number} mutants")


def mutants_of(path: str, root: Path) -> list[Mutant]:
    """Return all mutants of a module.

    Left out is what cannot make a result wrong: docstrings, annotations, the words of errors, hints and progress,
    ``__all__``, sizes of buffers and samples that only decide about speed (by their names), ``encoding`` and ``strict``
    (which hold anyway), and ``AssertionError``, which nothing reaches.
    """
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    return [Mutant(path, number, *change) for number, change in enumerate(_changes(tree))]


def _changes(tree: ast.Module) -> Iterator[tuple[int, int, str, str]]:
    """Change one place after the other, and change it back; yield lines, function and change meanwhile."""
    for parent, field, index, node, first, function in _places(tree, 1, ""):
        before = ast.unparse(node)
        for new in _replacements(field, node):
            _put(parent, field, index, ast.copy_location(new, node))
            yield node.lineno, first, function, _shorten(before, ast.unparse(new))
            _put(parent, field, index, node)


def _places(node: ast.AST, first: int, function: str) -> Iterator[tuple[ast.AST, str, int | None, Any, int, str]]:
    """Walk over what may be changed: parent, field, index in it, node, its statement's first line, its function."""
    if isinstance(node, ast.stmt):
        first = node.lineno
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    for field, value in ast.iter_fields(node):
        if field in _LEFT_OUT:
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not _is_left_out(child):
                if hasattr(child, "lineno"):
                    yield node, field, index, child, child.lineno if isinstance(child, ast.stmt) else first, function
                if not isinstance(child, ast.Raise):
                    yield from _places(child, first, function)


def _is_left_out(node: ast.AST) -> bool:
    match node:
        case ast.Expr(value=ast.Constant()) | ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.Assert():
            return True
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name == "__all__" or _SPEED.fullmatch(name) is not None
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.keyword(arg=name):
            return name in _WORDS
        case ast.Raise(exc=ast.Call(func=ast.Name(id="AssertionError"))):
            return True
        case ast.Call(func=called):
            return re.search(r"Error$|TypeVar|listener|\bwarn", ast.unparse(called)) is not None
        case ast.Expr(value=ast.Call(func=called)):
            return re.search(r"listener|\bwarn|\bupdate_progress", ast.unparse(called)) is not None
    return False


def _replacements(field: str, node: Any) -> Iterator[Any]:
    """Yield what may stand in the place of a node."""
    yield from _expressions(node)
    if field == "test" and not isinstance(node, ast.Compare | ast.UnaryOp):
        yield ast.UnaryOp(ast.Not(), node)
    if field == "ifs":
        yield ast.Constant(True)
    if isinstance(node, ast.AugAssign):
        yield ast.AugAssign(node.target, _SWAPS[type(node.op)](), node.value)
    if (
        isinstance(node, ast.Return)
        and node.value
        and not (isinstance(node.value, ast.Constant) and not node.value.value)
    ):
        yield ast.Return(ast.Constant(None))
    if _may_be_deleted(node):
        yield ast.Pass()


def _expressions(node: Any) -> Iterator[Any]:
    match node:
        case ast.Compare(ops=ops):
            for index, one in enumerate(ops):
                yield ast.Compare(node.left, [*ops[:index], _SWAPS[type(one)](), *ops[index + 1 :]], node.comparators)
        case ast.BoolOp(op=one):
            yield ast.BoolOp(_SWAPS[type(one)](), node.values)
        case ast.BinOp(op=one) if type(one) in _SWAPS:
            yield ast.BinOp(node.left, _SWAPS[type(one)](), node.right)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield node.operand
        case ast.Constant():
            yield from _constants(node.value)
        case ast.Call():
            for one in (one for one in node.keywords if one.arg and one.arg not in _WORDS):
                yield ast.Call(node.func, node.args, [other for other in node.keywords if other is not one])


def _constants(value: Any) -> Iterator[ast.AST]:
    match value:
        case bool():
            yield ast.Constant(not value)
        case int():
            yield ast.Constant(value + 1)
        case float():
            yield ast.Constant(value * 2 if value else 1.0)
        case str() if _KEY.fullmatch(value):
            yield ast.Constant(f"{value}_")


def _may_be_deleted(node: ast.AST) -> bool:
    """Return whether a statement without which the rest still runs."""
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Attribute | ast.Subscript)
    if isinstance(node, ast.Delete):
        return not isinstance(node.targets[0], ast.Name)  # which says that an argument is not used
    return isinstance(node, _DELETED) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _shorten(before: str, after: str) -> str:
    """Return the two texts without most of what they have in common."""
    one, other = (" ".join(text.split()) for text in (before, after))
    if len(one) > 60:
        start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        start = max(0, start - 25)
        one, other = (("…" if start else "") + text[start : start + 50].strip() for text in (one, other))
    return f"`{one}` to `{other}`"
