"""Invariant: a refinement killed with SIGKILL at any moment and run again ends as an uninterrupted one does, and no
answer that was received is asked for again.

An answer is received once it is committed to the cache, which is the first thing done with it after its last byte is
read. A process killed between the two loses what its threads hold at that moment, one answer each at most: those, and
the requests on their way, are all that is asked twice. The test looks into the cache after every kill, when nobody is
left to write to it, and into the server's log at the end.
"""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import refining_worker
from scripted_llm import ScriptedLLM

KILLS = 20
ROWS = 110


def start(server: ScriptedLLM, directory: Path) -> multiprocessing.process.BaseProcess:
    arguments = server.base_url, str(directory / "answers.sqlite"), str(directory / "rows.jsonl"), ROWS
    process = refining_worker.forkserver().Process(target=refining_worker.refine_to, args=arguments)
    process.start()
    return process


def recorded(directory: Path) -> set[str]:
    if not (directory / "answers.sqlite").exists():
        return set()
    connection = sqlite3.connect(directory / "answers.sqlite")
    exists = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'answers'").fetchone()[0]
    texts = {text for (text,) in connection.execute("SELECT answer FROM answers")} if exists else set()
    connection.close()
    return texts


def finish(server: ScriptedLLM, directory: Path) -> tuple[list[dict], dict]:
    process = start(server, directory)
    process.join(60)
    assert process.exitcode == 0
    lines = (directory / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads((directory / "rows.jsonl.report").read_text())


def kill_at_random(server: ScriptedLLM, directory: Path) -> list[tuple[int, set[str]]]:
    """Length of the server's log and answers on record after each kill; every other one hits a run at work."""
    generator = np.random.default_rng(20)
    moments = []
    while len(moments) < KILLS:
        sent, deadline_s = len(server.log), time.monotonic() + 60
        process = start(server, directory)
        while len(moments) % 2 and len(server.log) == sent and time.monotonic() < deadline_s:
            time.sleep(0.001)
        time.sleep(generator.uniform(0.0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -9 and not (directory / "rows.jsonl").exists()
        time.sleep(2 * refining_worker.DELAY_S)  # what is on its way arrives at nobody
        moments.append((len(server.log), recorded(directory)))
    return moments


@pytest.mark.slow
def test_killed_twenty_times_it_ends_the_same_and_asks_nothing_again(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    with ScriptedLLM(refining_worker.wayward_script) as server:
        expected, report = finish(server, tmp_path / "whole")
    assert report["by_refiner"].keys() == {"llm", "rule_fallback"} and report["retries"] > 20
    assert len(server.log) == report["calls"] + sum(logged.status == 503 for logged in server.log)

    with ScriptedLLM(refining_worker.wayward_script) as server:
        moments = kill_at_random(server, tmp_path / "killed")
        rows, _ = finish(server, tmp_path / "killed")
    assert rows == expected
    assert [len(texts) for _, texts in moments] == sorted(len(texts) for _, texts in moments)
    assert len(moments[-1][1]) > KILLS, "the kills hit work, not start-up only"

    begin = 0
    for end, texts in moments:
        assert [logged.text for logged in server.log[end:] if logged.text in texts] == []
        lost = [one for one in server.log[begin:end] if one.delivered and one.text and one.text not in texts]
        assert len(lost) <= refining_worker.CONCURRENCY
        begin = end
    answered = [logged.text for logged in server.log if logged.text]
    assert len(answered) - len(set(answered)) <= KILLS * refining_worker.CONCURRENCY
