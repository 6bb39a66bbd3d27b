"""Renders places in several processes, in order.

The processes are fresh interpreters fed by a pipe, not a `multiprocessing` pool: they never import the caller's
main module, so a plain script needs no `if __name__ == "__main__":` guard, and nothing is forked beside threads.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator

CHILD = "from pemoe.datasets_scripts.campus.source import write_rows; write_rows()"


def rows_in_processes(
    namespace: str, places: int, seed: int, workers: int, options: dict[str, int]
) -> Iterator[list[dict]]:
    """`rows_for_place(namespace, index, seed=seed, **options)` for index 0, 1, ... places - 1.

    Process w renders the places w, w + workers, ...; the pipes are read in turn, so only a few places wait in memory.

    Raises:
        RuntimeError: a process ended before its last place; its own message is on stderr.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    children = []
    try:
        for worker in range(workers):
            task = {"namespace": namespace, "places": [worker, places, workers], "seed": seed, "options": options}
            command = [sys.executable, "-c", CHILD, json.dumps(task)]
            children.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=environment))
        for index in range(places):
            yield _next_rows(children[index % workers], index)
    finally:
        for child in children:
            child.kill()
            child.stdout.close()
            child.wait()


def _next_rows(child: subprocess.Popen, index: int) -> list[dict]:
    try:
        return pickle.load(child.stdout)
    except (EOFError, pickle.UnpicklingError) as error:
        raise RuntimeError(
            f"campus: the process rendering place {index} ended early (see its message above)"
        ) from error
