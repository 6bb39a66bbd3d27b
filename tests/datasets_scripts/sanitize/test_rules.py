"""Invariant: every pattern has an example in a comment at its lines, and matches it."""

from __future__ import annotations

import ast
import importlib
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULES = (
    "text.sentences",
    "text.visibility",
    "sanitize.rules",
    "sanitize.lookalikes",
    "sanitize.masking",
    "augment.image_frame",
    "augment.circle",
    "augment.captions",
    "refine.rules",
    "audit.captions",
    "audit.regions",
    "text.refusals",
)
ONE_PATTERN = ("compile", "_rule", "_frame", "_any_case")  # calls that make one pattern
MANY_PATTERNS = ("_protect",)  # a family, then patterns


def _comments(source: str) -> dict[int, list[str]]:
    """The quoted examples of each line whose comment begins with one."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {one.start[0]: one.string for one in tokens if one.type == tokenize.COMMENT}
    return {line: re.findall(r'"([^"]+)"', text) for line, text in comments.items() if text.startswith('# "')}


def _parts(node: ast.AST) -> Iterator[tuple[int, int]]:
    """First and last line of each pattern below a node, in order."""
    name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
    if name in ONE_PATTERN:
        yield node.lineno, node.end_lineno
    elif name in MANY_PATTERNS:
        starts = [argument.lineno for argument in node.args[1:]]
        yield from zip(starts, [*(start - 1 for start in starts[1:]), node.end_lineno], strict=True)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _parts(child)


def _patterns(value: object) -> list[re.Pattern[str]]:
    """The compiled patterns in a value of a module, in order; fragments of patterns are compiled."""
    if isinstance(value, str):
        return [re.compile(value, re.IGNORECASE)]
    if isinstance(value, re.Pattern):
        return [value]
    if hasattr(value, "pattern"):
        return [value.pattern]
    if isinstance(value, tuple) and value and isinstance(value[0], re.Pattern):
        return [value[0]]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return [pattern for one in values for pattern in _patterns(one)]


def _with_examples() -> Iterator[tuple[str, re.Pattern[str], list[str]]]:
    """(place, pattern, examples) of all modules; fragments (texts) only where they have an example."""
    for name in MODULES:
        module = importlib.import_module(f"pemoe.datasets_scripts.{name}")
        source = Path(module.__file__).read_text(encoding="utf-8")
        comments = _comments(source)
        for statement in ast.parse(source).body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                continue
            value = statement.value
            parts = [] if isinstance(value, ast.DictComp) else list(_parts(value))  # those are made of others
            if not parts and any(comments.get(line) for line in range(statement.lineno, statement.end_lineno + 1)):
                pairs = (
                    zip(value.keys, value.values, strict=True) if isinstance(value, ast.Dict) else [(statement,) * 2]
                )
                parts = [(first.lineno, last.end_lineno) for first, last in pairs]
            patterns = _patterns(getattr(module, statement.targets[0].id)) if parts else []
            assert len(patterns) == len(parts), f"{name}:{statement.lineno}"
            for (first, last), pattern in zip(parts, patterns, strict=True):
                examples = [one for line in range(first, last + 1) for one in comments.get(line, [])]
                yield f"{name}:{first}", pattern, examples


@pytest.mark.parametrize(("place", "pattern", "examples"), _with_examples(), ids=lambda value: str(value)[:60])
def test_every_pattern_matches_its_examples(place, pattern, examples):
    assert examples, f"{place}: give an example in a comment at the pattern's line"
    assert all((match := pattern.search(example)) and match.end() for example in examples), (place, examples)


def test_all_tables_are_read():
    count = {name: sum(place.startswith(name) for place, _, _ in _with_examples()) for name in MODULES}
    assert sum(count.values()) > 150 and min(count.values()) > 2, count
