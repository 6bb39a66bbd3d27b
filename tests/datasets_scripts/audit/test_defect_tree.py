"""Invariant: of a tree with one of every defect each is found and nothing else; a clean tree is clean."""

from __future__ import annotations

from pathlib import Path

import pytest
from defect_tree import PLANTS, write_clean_tree, write_defect_tree

from pemoe.datasets_scripts.audit.defects import DEFECTS, Finding
from pemoe.datasets_scripts.audit.walk import survey_tree

ELSEWHERE = {"fixed_overlay", "missing_coordinates", "bad_coordinates"}  # see test_attribution.py, test_records.py


def findings_in(root: Path) -> list[Finding]:
    found: list[Finding] = []
    survey_tree(root, found.append)
    return found


def pairs(found: list[Finding]) -> set[tuple[str, str | None]]:
    return {(finding.kind, finding.image_id) for finding in found}


@pytest.fixture(scope="module")
def clean_findings(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    return findings_in(write_clean_tree(tmp_path_factory.mktemp("clean") / "tree"))


def test_every_kind_is_planted_here_or_elsewhere() -> None:
    assert set(PLANTS) | ELSEWHERE == set(DEFECTS)


def test_a_clean_tree_has_no_error_and_no_warning(clean_findings: list[Finding]) -> None:
    assert [found for found in clean_findings if DEFECTS[found.kind].severity != "note"] == []


def test_each_planted_defect_is_found_and_nothing_else(tmp_path: Path, clean_findings: list[Finding]) -> None:
    planted = write_defect_tree(tmp_path / "tree")
    found = pairs(findings_in(tmp_path / "tree"))
    natural = pairs(clean_findings)  # notes that hold of clean rows
    assert planted <= found
    assert found - natural == planted - natural
