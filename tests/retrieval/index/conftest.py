"""A real Milvus server on this machine, for the tests that need one."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

STARTED_S = 60.0  # a first start unpacks 450 MB
NAMES = (f"gallery{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that is ended, with all its processes, after the last test."""
    program = os.environ.get("PEMOE_MILVUS_SERVER") or shutil.which("milvus-server")
    if program is None:
        pytest.skip("no milvus-server on PATH or in PEMOE_MILVUS_SERVER; run: pip install milvus==2.3.5")
    folder, port = tmp_path_factory.mktemp("milvus"), free_port()
    command = [program, "--data", str(folder / "data"), "--proxy-port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_healthy(address, server)
        yield address
    finally:  # the wrapper passes no signal on to the server, but both are in its group
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def milvus_uri(milvus_server: str) -> Iterator[str]:
    """An address where no index is; what a test makes there is dropped."""
    from pymilvus import MilvusClient

    name = next(NAMES)
    yield f"{milvus_server}/{name}"
    client = MilvusClient(milvus_server)
    for collection in (name, f"{name}_about"):
        client.drop_collection(collection)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_until_healthy(address: str, server: subprocess.Popen) -> None:
    from pymilvus import MilvusClient, MilvusException

    end = time.monotonic() + STARTED_S
    while True:
        try:
            MilvusClient(address, timeout=1).list_collections()
            return
        except MilvusException:
            if server.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.2)
