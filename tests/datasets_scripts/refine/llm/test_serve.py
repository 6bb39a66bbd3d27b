"""Invariant: against a real model server (`transformers serve`) and a real local model, both random, every answer is
gibberish, every gibberish is rejected with its reason, and every row gets the texts of the rules.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from refining_worker import numbered_rows
from tiny_chat import IMAGE_PX, PATCH_PX, write_image_chat, write_text_chat

from pemoe.datasets_scripts.refine import (
    EndpointBackend,
    LLMRefiner,
    LocalBackend,
    RefineReport,
    RuleRefiner,
    refine_rows,
)
from pemoe.datasets_scripts.refine.llm.calls import Sampling
from pemoe.datasets_scripts.refine.llm.prompts import build_messages
from pemoe.datasets_scripts.schema import DataError

SERVING = all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "openai", "pydantic"))
needs_serving = pytest.mark.skipif(not SERVING, reason='needs the server: pip install "transformers[serving]"')


@contextmanager
def served(model: Path, home: Path) -> Iterator[str]:
    """`transformers serve` of one model; yields the address once it is healthy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home / "hub").mkdir(parents=True)
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_until_healthy(f"http://127.0.0.1:{port}/health", process, home / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(20)


def _wait_until_healthy(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline_s = time.monotonic() + 180  # a busy machine takes long to import
    while time.monotonic() < deadline_s:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"the server did not come up: {log.read_text()[-2000:]}")


def rows_with_pictures(count: int) -> list[dict]:
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28), "teal").save(buffer, "PNG")
    return [{**row, "image": {"bytes": buffer.getvalue(), "path": None}} for row in numbered_rows(count)]


def check_gibberish(backend: object, path: Path, rows: list[dict]) -> None:
    """Every caption was asked twice, every answer is on record with a reason, and the rules spoke for every row."""
    refiner = LLMRefiner(backend, path, max_tokens=12, retries=1, concurrency=2)
    report = RefineReport()
    refined = list(refine_rows(rows, refiner, report=report))
    reported = report.to_dict()
    captions = sum(len(row["captions"]) for row in rows)
    assert reported["by_refiner"] == {"rule_fallback": captions}
    assert sum(entry["count"] for entry in reported["rejections"].values()) == reported["calls"] == 2 * captions
    assert reported["prompt_tokens"] > reported["completion_tokens"] > 0
    assert [row["refined_captions"] for row in refined] == [
        row["refined_captions"] for row in refine_rows(rows, RuleRefiner())
    ]
    stored = sqlite3.connect(path).execute("SELECT answer, rejections FROM answers").fetchall()
    assert len(stored) == 2 * captions and all(json.loads(rejections)[0]["reason"] for _, rejections in stored)


@pytest.mark.slow
@needs_serving
def test_a_served_text_model(tmp_path: Path) -> None:
    model = write_text_chat(tmp_path / "model")
    with served(model, tmp_path / "home") as base_url:
        check_gibberish(EndpointBackend(str(model), base_url), tmp_path / "a.sqlite", list(numbered_rows(2)))
        with pytest.raises(DataError, match=r"HTTP 400 for model 'other': check the model's name") as error:
            LLMRefiner(EndpointBackend("other", base_url), tmp_path / "b.sqlite").refine("A hall by a pond.", "drone")
        assert "\n" not in str(error.value)


@pytest.mark.slow
@needs_serving
def test_a_served_model_that_sees_pictures(tmp_path: Path) -> None:
    model = write_image_chat(tmp_path / "model")
    with served(model, tmp_path / "home") as base_url:
        backend = EndpointBackend(str(model), base_url, takes_images=True)
        check_gibberish(backend, tmp_path / "a.sqlite", rows_with_pictures(2))


def test_a_local_text_model(tmp_path: Path) -> None:
    model = write_text_chat(tmp_path / "model")
    check_gibberish(LocalBackend(str(model)), tmp_path / "a.sqlite", list(numbered_rows(1)))


def test_a_local_model_that_sees_pictures(tmp_path: Path) -> None:
    model = write_image_chat(tmp_path / "model")
    rows = rows_with_pictures(1)
    backend = LocalBackend(str(model), takes_images=True)
    check_gibberish(backend, tmp_path / "a.sqlite", rows)
    picture, sampling = rows[0]["image"]["bytes"], Sampling(0.0, 4, 0)
    blind, seeing = (backend.ask(build_messages("Rewrite.", "A hall.", image), sampling) for image in (None, picture))
    assert seeing.tokens.prompt == blind.tokens.prompt + (IMAGE_PX // PATCH_PX) ** 2


def test_a_local_model_that_cannot_be_used_is_reported_in_one_line(tmp_path: Path) -> None:
    mute = write_text_chat(tmp_path / "model", template=None)
    for name, reported in ((tmp_path / "absent", "cannot be loaded"), (mute, "no chat template")):
        refiner = LLMRefiner(LocalBackend(str(name)), tmp_path / "a.sqlite")
        with pytest.raises(DataError, match=reported) as error:
            refiner.refine("A hall by a pond.", "drone")
        assert "\n" not in str(error.value)
