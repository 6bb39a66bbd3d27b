"""Every answer ever received, in one SQLite file: what is in it is never asked for again."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_fixed

from pemoe.datasets_scripts.refine.outcome import Tokens
from pemoe.datasets_scripts.schema import DataError

BUSY_S = 60.0  # how long one process waits for another one's commit
LAYOUT = 1  # of the table; kept in the file's user_version

_TABLE = """
CREATE TABLE answers (
    model TEXT NOT NULL, prompt_version TEXT NOT NULL, input_hash TEXT NOT NULL, number INTEGER NOT NULL,
    answer TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, rejections TEXT,
    PRIMARY KEY (model, prompt_version, input_hash, number)
)
"""
_WHERE = "model = ? AND prompt_version = ? AND input_hash = ? AND number = ?"


class CacheKey(NamedTuple):
    """What an answer belongs to; answers to one key are numbered from 0 in the order they were asked for."""

    model: str
    prompt_version: str
    input_hash: str


@dataclass(frozen=True)
class Answer:
    """What a model said, word for word, and what it cost."""

    text: str
    tokens: Tokens


class AnswerCache:
    """A SQLite file of raw answers, used by several threads and several processes at a time.

    An answer counts as received once `put` returned: it is committed by then, in write-ahead mode with a flush to
    disk, and outlives `kill -9` and a power cut. Answers are kept as they came, also those that were rejected, so that
    changed rules of validation judge them anew without another call. An absent file is made, and its directories.

    Raises:
        DataError: the file is damaged, of another program or layout, or cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        with self._one_line_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            options = {"timeout": BUSY_S, "check_same_thread": False, "isolation_level": None}
            self._connection = sqlite3.connect(self.path, **options)
            try:
                self._open()
            except BaseException:
                self._connection.close()
                raise

    def _open(self) -> None:
        """Set the modes, check the file, make the table."""
        execute = self._connection.execute
        fault = execute("PRAGMA quick_check(1)").fetchone()[0]
        if fault != "ok":
            raise sqlite3.DatabaseError(fault.splitlines()[-1])
        execute("BEGIN IMMEDIATE")  # table and layout together: whole, or not at all
        layout = execute("PRAGMA user_version").fetchone()[0]
        if layout == 0 == execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            execute(_TABLE)
            execute(f"PRAGMA user_version = {LAYOUT}")
        elif layout != LAYOUT:
            raise sqlite3.DatabaseError(f"it is another program's, or of layout {layout} instead of {LAYOUT}")
        execute("COMMIT")
        is_locked = retry_if_exception_message(match=".*locked")  # this statement does not wait for others by itself
        patiently = Retrying(retry=is_locked, wait=wait_fixed(0.01), stop=stop_after_delay(BUSY_S), reraise=True)
        patiently(execute, "PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Turn what SQLite and the file system say into one line."""
        try:
            yield
        except sqlite3.OperationalError as error:
            line = f"cannot use this answer cache ({error}); check rights and free space"
            raise DataError(f"{self.path}: {line}") from error
        except sqlite3.DatabaseError as error:
            line = f"is no intact answer cache ({error}); move it away to start anew, or restore a copy"
            raise DataError(f"{self.path}: {line}") from error
        except OSError as error:
            raise DataError(f"{self.path}: cannot make this answer cache ({error}); name another file") from error

    def _execute(self, statement: str, values: Sequence[object]) -> list[tuple]:
        with self._lock, self._one_line_errors():
            return self._connection.execute(statement, values).fetchall()

    def get(self, key: CacheKey, number: int) -> Answer | None:
        """The answer with this number; None when it was never received."""
        statement = f"SELECT answer, prompt_tokens, completion_tokens FROM answers WHERE {_WHERE}"
        rows = self._execute(statement, (*key, number))
        return Answer(rows[0][0], Tokens(*rows[0][1:])) if rows else None

    def put(self, key: CacheKey, number: int, answer: Answer) -> None:
        """Commit an answer; where another process was first, its answer stays."""
        values = (*key, number, answer.text, answer.tokens.prompt, answer.tokens.completion)
        self._execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", values)

    def note(self, key: CacheKey, number: int, rejections: Sequence[dict[str, str]]) -> None:
        """Record why an answer, or a part of it, was not used; the latest judgement replaces the one before."""
        text = json.dumps(list(rejections), ensure_ascii=False)
        statement = f"UPDATE answers SET rejections = ? WHERE {_WHERE} AND rejections IS NOT ?"
        self._execute(statement, (text, *key, number, text))

    def mean_tokens(self, model: str, prompt_version: str) -> Tokens | None:
        """Mean cost of an answer of this model to this prompt version so far; None before the first."""
        statement = "SELECT avg(prompt_tokens), avg(completion_tokens) FROM answers"
        where = " WHERE model = ? AND prompt_version = ?"
        ((prompt, completion),) = self._execute(statement + where, (model, prompt_version))
        return None if prompt is None else Tokens(round(prompt), round(completion))

    def __len__(self) -> int:
        return self._execute("SELECT count(*) FROM answers", ())[0][0]

    def close(self) -> None:
        """Close the file; the cache cannot be used after."""
        with self._lock:
            self._connection.close()
