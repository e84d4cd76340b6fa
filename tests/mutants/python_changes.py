"""What is changed in a Python file: its syntax tree says where, and only those bytes differ.

Left out is what no test of behaviour can see: annotations, ``assert``, ``__slots__``, log lines and
what is done for them alone; how large a bound is that a module names, for tests take it from there;
and with which number a count begins.
"""

from __future__ import annotations

import ast
import re

from .mutant import Mutant, make_mutant

COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
"""Each comparison: moved by its boundary, and turned."""


def python_mutants(file: str, source: bytes) -> list[Mutant]:
    """All changes of a file, in order."""
    changes = _Changes(file, source)
    changes.visit(ast.parse(source))
    return sorted(changes.found, key=lambda mutant: (mutant.start, mutant.end, mutant.text))


class _Changes(ast.NodeVisitor):
    def __init__(self, file: str, source: bytes) -> None:
        self.found: list[Mutant] = []
        self._file = file
        self._source = source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._scope: list[str] = []

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.end_lineno - 1] + node.end_col_offset

    def _change(self, start: int, end: int, text: str) -> None:
        scope = ".".join(self._scope)
        self.found.append(make_mutant(self._file, self._source, start, end, text, scope))

    def _between(self, left: ast.expr, right: ast.expr, token: str, texts: tuple[str, ...]) -> None:
        """Change the token between two operands; parentheses and comments may stand there too."""
        start, end = self._end(left), self._start(right)
        pattern = re.escape(token).replace(r"\ ", r"\s+")
        if token[0].isalpha():
            pattern = rf"\b{pattern}\b"
        match = re.search(pattern.encode(), self._source[start:end])
        assert match is not None, (self._file, left.lineno, token)
        for text in texts:
            self._change(start + match.start(), start + match.end(), text)

    def _negate(self, test: ast.expr) -> None:
        """Negate a condition, unless another change does: a comparison's, or that of a ``not``."""
        turned = isinstance(test, ast.Compare) and len(test.ops) == 1
        if not (turned or isinstance(test, (ast.Constant, ast.UnaryOp)) or _is_debug(test)):
            start, end = self._start(test), self._end(test)
            self._change(start, end, f"not ({self._source[start:end].decode()})")

    def _remove(self, node: ast.stmt) -> None:
        self._change(self._start(node), self._end(node), "pass")

    # What is passed over

    def visit_Assert(self, node: ast.Assert) -> None:
        return

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in (*node.defaults, *node.kw_defaults):
            if default is not None:
                self.visit(default)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if ast.unparse(node.annotation) == "TypeAlias" or node.value is None:
            return
        if self._is_chosen(node.value):
            return
        if isinstance(node.target, ast.Attribute) and self._scope[-1] != "__init__":
            self._remove(node)
        self.visit(node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if not any(ast.unparse(base) == "Protocol" for base in node.bases):
            self._visit_scope(node.name, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.visit(node.args)
        self._visit_scope(node.name, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def _visit_scope(self, name: str, body: list[ast.stmt]) -> None:
        self._scope.append(name)
        for statement in body:
            if not (isinstance(statement, ast.Return) and statement is body[-1]):
                self.visit(statement)
            elif statement.value is not None:
                self.visit(statement.value)
        self._scope.pop()

    def _is_chosen(self, value: ast.expr) -> bool:
        """A number at the top of a module, or one that an attribute begins with."""
        if self._scope and self._scope[-1] != "__init__":
            return False
        parts = [each for each in ast.walk(value) if isinstance(each, (ast.expr, ast.operator))]
        numbers = (ast.Constant, ast.BinOp, ast.operator)
        return all(isinstance(each, numbers) for each in parts) and not any(
            isinstance(each, ast.Constant) and isinstance(each.value, bool) for each in parts
        )

    # Statements

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call) and not ast.unparse(call.func).startswith("log."):
            self._remove(node)
            self.visit(call)

    def visit_Assign(self, node: ast.Assign) -> None:
        if ast.unparse(node.targets[0]) == "__slots__" or self._is_chosen(node.value):
            return
        kept = (ast.Attribute, ast.Subscript)
        targets = node.targets[0]
        each = targets.elts if isinstance(targets, ast.Tuple) else [targets]
        # One that __init__ leaves out is missed by its name.
        if all(isinstance(target, kept) for target in each) and self._scope[-1:] != ["__init__"]:
            self._remove(node)
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        for kind, token, other in ((ast.Add, "+=", "-="), (ast.Sub, "-=", "+=")):
            if isinstance(node.op, kind):
                self._between(node.target, node.value, token, (other,))
        self._remove(node)
        self.visit(node.value)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._remove(node)

    visit_Raise = visit_Break = visit_Continue = visit_Delete  # type: ignore[assignment]

    def visit_Return(self, node: ast.Return) -> None:
        self._remove(node)
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node: ast.If | ast.While) -> None:
        if not _is_debug(node.test):
            if isinstance(node.test, ast.Constant):  # it runs for ever
                for statement in node.body:
                    self.visit(statement)
                return
            self._negate(node.test)
            self.generic_visit(node)

    visit_While = visit_If

    # Expressions

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            token, texts = COMPARISONS[type(operator)]
            # In a chain the boundary alone: turned, one of its parts turns the whole.
            self._between(left, right, token, texts if len(node.ops) == 1 else texts[:1])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        token, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, token, (other,))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        for kind, token, other in ((ast.Add, "+", "-"), (ast.Sub, "-", "+")):
            if isinstance(node.op, kind):
                self._between(node.left, node.right, token, (other,))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            start = self._start(node)
            word = re.match(rb"not\s*", self._source[start:])
            assert word is not None
            self._change(start, start + word.end(), "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._change(self._start(node), self._end(node), str(not value))
        elif isinstance(value, (int, float)):
            self._change(self._start(node), self._end(node), str(value + 1))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        return


def _is_debug(test: ast.expr) -> bool:
    return ast.unparse(test) == "logs.is_debug"
