"""Running `pemoe` as a user does, in this process or in a fresh one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pemoe import cli


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of `pemoe ARGUMENTS`, in this process."""
    monkeypatch.setattr(sys, "argv", ["pemoe", *arguments])
    try:
        cli.main()
    except SystemExit as done:
        return done.code or 0
    return 0


def run_fresh(env: dict[str, str], cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`pemoe ARGUMENTS` in a process of its own."""
    command = [sys.executable, "-m", "pemoe", *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def assert_refused(monkeypatch, capsys, arguments: list[str], word: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr with `word` in it."""
    code = run(monkeypatch, *arguments)
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert said.err.startswith("pemoe: ") and said.err.count("\n") == 1, said.err
    assert word in said.err
