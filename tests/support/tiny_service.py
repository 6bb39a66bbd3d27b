"""A small index of coloured squares on disk, its model beside it, and `pemoe serve` on it in a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.modeling_pemoe.pictures_pemoe import read_picture
from pemoe.retrieval.index import GalleryIndex
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.ingest import thumbnail_of
from pemoe.retrieval.index.records import table_of

START = re.compile(r"pictures at http://127\.0\.0\.1:(\d+)")


def write_index(folder: Path, places: int = 6) -> tuple[str, str]:
    """Paths of an index and of its model; place `k` lies at latitude 50 + k / 100, longitude 10."""
    model, processor = build_tiny_model(), build_processor()
    model_path, index_path = str(folder / "model"), str(folder / "squares.index")
    model.save_pretrained(model_path)
    processor.save_pretrained(model_path)
    index = GalleryIndex.create(index_path, ModelIdentity.of(model_path, model))
    names = ("satellite", "drone", "ground")
    pictures, rows = [], []
    for row in build_split(places).cast_column("image", build_split(1).features["image"].__class__(decode=False)):
        pictures.append(read_picture(row["image"]["bytes"]))
        facts = {name: row[name] for name in ("image_id", "place_id")}
        where = {"latitude_deg": 50 + int(row["place_id"]) / 100, "longitude_deg": 10.0}
        thumbnail = thumbnail_of(pictures[-1])
        rows.append({**facts, **where, "platform": names[row["platform"]], "thumbnail": thumbnail})
    index.upsert(table_of(rows, model.encode_images(pictures, processor)))
    return index_path, model_path


@dataclass
class Server:
    """A running `pemoe serve`."""

    process: subprocess.Popen
    port: int
    log: Path

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON (or text) of one request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        if body is not None and not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        is_json = "json" in (answer.headers["Content-Type"] or "")
        return answer.status, json.loads(content) if is_json else content.decode()

    def rss_mb(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


@contextmanager
def serving(index: str, *options: str, **env: str) -> Iterator[Server]:
    """`pemoe serve` on a free port, once it answers; killed at the end where it still runs."""
    command = [sys.executable, "-m", "pemoe", "serve", "--index", index, "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **env}
    with NamedTemporaryFile("w", suffix=".log") as file:  # a pipe that nobody reads would stop the service
        log = Path(file.name)
        process = subprocess.Popen(command, stderr=file, env=environment)
        try:
            while not (started := START.search(log.read_text())):
                assert process.poll() is None, f"pemoe serve ended: {log.read_text()}"
                time.sleep(0.05)
            yield Server(process, int(started[1]), log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
