"""Invariant: of a tree with one of every defect each is found and nothing else; a clean tree is clean."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from defect_tree import PLANTS, write_clean_tree, write_defect_tree

from pemoe.datasets_scripts.audit.defects import DEFECTS, Finding
from pemoe.datasets_scripts.audit.survey import Survey, archive_defect, survey_tree
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.archives import iter_image_members

ELSEWHERE = {
    "fixed_overlay",
    *(kind for kind, defect in DEFECTS.items() if defect.only == "rows"),
}  # see test_attribution.py, test_records.py


def findings_in(root: Path) -> list[Finding]:
    found: list[Finding] = []
    survey_tree(root, Survey(found.append))
    return found


def pairs(found: list[Finding]) -> set[tuple[str, str | None]]:
    return {(finding.kind, finding.image_id) for finding in found}


@pytest.fixture(scope="module")
def clean_findings(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    return findings_in(write_clean_tree(tmp_path_factory.mktemp("clean") / "tree"))


def test_every_kind_is_planted_here_or_elsewhere() -> None:
    assert set(PLANTS) | ELSEWHERE == set(DEFECTS)


def test_a_bomb_is_unsafe_and_no_archive_at_all_broken(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a" * 2**25))  # a name of 32 MiB in a file of 33 kB
    (tmp_path / "page.tar.gz").write_text("<html>404</html>")
    kinds = {}
    for path in tmp_path.iterdir():
        with pytest.raises(DataError) as caught:
            list(iter_image_members(path))
        kinds[path.name] = archive_defect(caught.value)
    assert kinds == {"bomb.tar.gz": "unsafe_archive", "page.tar.gz": "broken_archive"}
    assert archive_defect(PermissionError("denied")) == "broken_archive"


def test_a_clean_tree_has_no_error_and_no_warning(clean_findings: list[Finding]) -> None:
    assert [found for found in clean_findings if DEFECTS[found.kind].severity != "note"] == []


def test_each_planted_defect_is_found_and_nothing_else(tmp_path: Path, clean_findings: list[Finding]) -> None:
    planted = write_defect_tree(tmp_path / "tree")
    found = pairs(findings_in(tmp_path / "tree"))
    natural = pairs(clean_findings)  # notes that hold of clean rows
    assert planted <= found
    assert found - natural == planted - natural
