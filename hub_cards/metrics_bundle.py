"""Metric modules as the repositories that `evaluate.load` reads from the Hub: whole without this package, no torch."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from pemoe.common.errors import InputError
from pemoe.hub_cards.ranked_places import INPUTS

ROOMS = Path(__file__).resolve().parents[1]
METRICS = Path(__file__).resolve().parent / "metrics"
HELPER = "geo_metrics"  # the file that holds what a metric takes from this package
NEEDS = ("datasets", "evaluate", "numpy")


def bundle_metric(name: str, repo_id: str | None = None) -> dict[str, bytes]:
    """The files of a metric's repository, a Space on the Hub (`sdk: static`).

    Args:
        name: a folder of hub_cards/metrics, "geo_recall" or "challenge_score".
        repo_id: what the card loads it by; None shows the bare name. Its last part must be `name`: `evaluate` looks
            for a script called like the repository.

    Returns:
        Path in the repository -> content.

    Raises:
        InputError: an unknown metric, or a repository of another name.

    Example:
        >>> sorted(bundle_metric("geo_recall", "me/geo_recall"))
        ['README.md', 'geo_metrics.py', 'geo_recall.py', 'index.html', 'requirements.txt']
    """
    script = METRICS / name / f"{name}.py"
    if not script.is_file():
        known = ", ".join(sorted(path.parent.name for path in METRICS.glob("*/*.py")))
        raise InputError(f"metric {name!r} is unknown, use one of {known}")
    if repo_id is not None and repo_id.rpartition("/")[2] != name:
        raise InputError(f"{repo_id}: evaluate finds {name} only in a repository of that name, OWNER/{name}")
    text = script.read_text(encoding="utf-8")
    card = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(
        (Path(__file__).parent / "metric_card.md").read_text(encoding="utf-8")
    )
    measures = ast.get_docstring(ast.parse(text))
    readme = card.render(name=name, repo_id=repo_id or name, measures=measures, inputs=INPUTS.strip())
    page = (
        f"<!doctype html><meta charset=utf-8><title>{name}</title><pre>{html.escape(readme.split('---', 2)[2])}</pre>"
    )
    files = {
        "README.md": readme,
        "index.html": page,
        "requirements.txt": "".join(
            f"{line}\n" for line in requires("pemoe") if re.match(r"[\w-]+", line)[0] in NEEDS
        ),
        f"{name}.py": re.sub(r"^from pemoe\.[\w.]+ import", f"from .{HELPER} import", text, flags=re.MULTILINE),
        f"{HELPER}.py": _gather(_ours(ast.parse(text))),
    }
    return {path: content.encode() for path, content in files.items()}


def _gather(wanted: Iterator[tuple[str, str]]) -> str:
    """One module with these (module, name) of the package and all they rest on."""
    imports: dict[str, None] = {}
    code: dict[str, str] = {}
    for module, name in wanted:
        _take(module, name, imports, code)
    head = [
        '"""What this metric takes from the package pemoe, as it stands there."""',
        "from __future__ import annotations",
    ]
    return "\n\n\n".join(["\n\n".join([*head, "\n".join(sorted(imports))]), *code.values()]) + "\n"


def _take(module: str, name: str, imports: dict[str, None], code: dict[str, str]) -> None:
    """Add the code of `module`'s `name` after all it rests on."""
    if name in code:
        return
    source = ROOMS.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    homes = {other: module for node in tree.body for other in _defines(node)} | {b: a for a, b in _ours(tree)}
    node = next(node for node in tree.body if name in _defines(node))
    used = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} - {name}
    for other in sorted(used & set(homes)):
        _take(homes[other], other, imports, code)
    for line in tree.body:
        if isinstance(line, (ast.Import, ast.ImportFrom)) and not _is_ours(line):
            kept = [one for one in line.names if (one.asname or one.name) in used]
            imports |= {ast.unparse(type(line)(**{**vars(line), "names": [one]})): None for one in kept}
    start = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
    code[name] = "\n".join(source.splitlines()[start - 1 : node.end_lineno])


def _defines(node: ast.stmt) -> set[str]:
    """Names that a statement at the top of a module gives a value to."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _is_ours(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pemoe.")


def _ours(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of what a module imports from the package."""
    return ((node.module, one.name) for node in tree.body if _is_ours(node) for one in node.names)
