"""A connection to a Milvus server, and the two collections of an index there."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pemoe.common.errors import one_line
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.milvus.rows import TEXTS, among
from pemoe.retrieval.index.records import VECTOR

if TYPE_CHECKING:
    from pymilvus import MilvusClient

MAX_ROWS = 16_384  # of one answer, Milvus' own limit
MAX_BYTES = 32 * 2**20  # of one message; servers take 64 MB
ABOUT_BYTES = 60_000  # of JSON text in one row
DESCRIPTION = "pemoe gallery"
TIMEOUT_S = 60.0
OPTIONS = ("token", "db_name", "timeout_s", "server_pem_path", "server_name")
OPTIONS += ("ca_pem_path", "client_pem_path", "client_key_path")
ADDRESS = "give http://host:19530/name"
GRAPH = {"M": 16, "efConstruction": 200}  # Malkov and Yashunin 2018


class Server:
    """A connection, and what of it a collection needs; every fault is one line that names the index."""

    def __init__(self, uri: str, options: Mapping[str, Any]) -> None:
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise GalleryError(f"{uri}: no option {unknown[0]}; there are {', '.join(OPTIONS)}")
        self.uri, (self.address, self.name) = uri, parse_uri(uri)
        self._about = f"{self.name}_about"
        given = {name: value for name, value in options.items() if value is not None}
        self._timeout_s = float(given.pop("timeout_s", TIMEOUT_S))
        self._token = given.pop("token", os.environ.get("MILVUS_TOKEN", ""))
        self._client = self._connect(given)

    def _connect(self, options: dict[str, Any]) -> MilvusClient:
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise GalleryError(f"{self.uri}: Milvus needs pymilvus; run: pip install pemoe[milvus]") from error
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs a traceback of what is raised here too
        with self._reported("cannot be reached"):
            return MilvusClient(
                self.address,
                token=self._token,
                timeout=self._timeout_s,
                dedicated=True,
                secure=self._is_secure,
                **options,
            )

    @property
    def _is_secure(self) -> bool:
        return self.address.startswith("https:")

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A method of `MilvusClient`, within the time limit."""
        with self._reported(f"{method} failed"):
            return getattr(self._client, method)(*arguments, timeout=self._timeout_s, **options)

    def version(self) -> tuple[int, ...]:
        """Of the server; () where it does not say."""
        return tuple(map(int, re.findall(r"\d+", str(self.call("get_server_version")))[:2]))

    def describe(self) -> dict[str, Any]:
        """The collection of pictures."""
        return self.call("describe_collection", self.name)

    def description(self) -> str | None:
        """Of the collection of pictures, None where there is none; GalleryError where it is something else."""
        if not self.call("has_collection", self.name):
            return None
        found = self.describe()["description"]
        if found != DESCRIPTION:
            raise GalleryError(f"{self.uri}: the collection {self.name} is no index; use another name")
        return found

    def index_type(self) -> str:
        """FLAT or HNSW."""
        return (self.call("describe_index", self.name, VECTOR) or {}).get("index_type", "FLAT")

    def create(self, dimension: int, is_half: bool) -> None:
        """Make the two collections, empty and ready."""
        from pymilvus import DataType

        vector = DataType.FLOAT16_VECTOR if is_half else DataType.FLOAT_VECTOR
        numbers = {"latitude_deg": DataType.DOUBLE, "longitude_deg": DataType.DOUBLE, "captured_at": DataType.INT64}
        self._create(self.name, TEXTS, numbers, vector, dimension)
        self._create(self._about, {"id": 64, "text": 65_535}, {}, DataType.FLOAT_VECTOR, 2)

    def _create(self, name: str, texts: dict[str, int], numbers: dict[str, Any], vector: Any, dimension: int) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False, description=DESCRIPTION)
        for number, (field, most) in enumerate(texts.items()):
            schema.add_field(field, DataType.VARCHAR, max_length=most, is_primary=number == 0)
        for field, kind in numbers.items():
            schema.add_field(field, kind)
        schema.add_field(VECTOR, vector, dim=dimension)
        self.call("create_collection", name, schema=schema, consistency_level="Strong")
        self.create_index(name, "FLAT")
        self.call("load_collection", name)

    def create_index(self, name: str, kind: str) -> None:
        """Of the vectors, FLAT or HNSW; returns when it is built."""
        params = self._client.prepare_index_params()
        params.add_index(VECTOR, index_type=kind, metric_type="IP", params=GRAPH if kind == "HNSW" else {})
        self.call("create_index", name, params)

    def drop(self) -> None:
        """Remove both collections."""
        for name in (self.name, self._about):
            self.call("drop_collection", name)

    def read_about(self) -> dict[str, Any] | None:
        """The newest that was written whole; None where there is none."""
        parts = self._about_parts() if self.call("has_collection", self._about) else {}
        for version in sorted({key[0] for key in parts}, reverse=True):
            keys = sorted(key for key in parts if key[0] == version)
            if len(keys) == keys[0][2]:
                return json.loads("".join(parts[key] for key in keys))
        return None

    def write_about(self, about: dict[str, Any]) -> None:
        """Write a new version, then drop the older ones: a kill leaves one of the two."""
        old = self._about_parts()
        version, text = max((key[0] for key in old), default=0) + 1, json.dumps(about)
        parts = [text[start : start + ABOUT_BYTES] for start in range(0, len(text), ABOUT_BYTES)]
        rows = [
            {"id": f"{version}-{number}-{len(parts)}", "text": part, VECTOR: [0.0, 1.0]}
            for number, part in enumerate(parts)
        ]
        for start in range(0, len(rows), MAX_BYTES // ABOUT_BYTES):
            self.call("upsert", self._about, rows[start : start + MAX_BYTES // ABOUT_BYTES])
        if old:
            self.call("delete", self._about, filter=among("id", ["-".join(map(str, key)) for key in old]))

    def _about_parts(self) -> dict[tuple[int, ...], str]:
        """(version, number, how many) -> text."""
        rows = self.call(
            "query",
            self._about,
            filter='id != ""',
            output_fields=["id", "text"],
            limit=MAX_ROWS,
            consistency_level="Strong",
        )
        return {tuple(map(int, row["id"].split("-"))): row["text"] for row in rows}

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """Faults of the server and of the way to it as one line, without the token."""
        from grpc import RpcError
        from pymilvus import MilvusException

        try:
            yield
        except GalleryError:
            raise
        except (MilvusException, RpcError, OSError, ValueError, TypeError) as error:
            said = one_line((getattr(error, "message", None) and ValueError(error.message)) or error)
            for secret in filter(None, [self._token, *self._token.split(":")]):
                said = said.replace(secret, "***")
            raise GalleryError(f"{self.uri}: {what} ({said[:300]}){_hint(said)}") from None


def _hint(said: str) -> str:
    known = {
        "auth": "; give the right token (MILVUS_TOKEN=user:password)",
        "not loaded": "; it is being indexed: try again",
        "Fail connecting": "; start the server, or correct the address",
        "cannot connect": "; start the server, or correct the address",
    }
    return next((hint for word, hint in known.items() if word.lower() in said.lower()), "")


def parse_uri(uri: str) -> tuple[str, str]:
    """`(http://host:port, name)`; GalleryError for anything else."""
    parts = urlsplit(uri)
    try:
        port = parts.port or 19_530
    except ValueError as error:
        raise GalleryError(f"{uri}: {error}; {ADDRESS}") from error
    if parts.username or parts.password:
        host = parts.hostname or ""
        raise GalleryError(f"{parts.scheme}://{host}: credentials in an address are shown; use the option token")
    name = parts.path.strip("/")
    if not parts.hostname or parts.query or parts.fragment or not re.fullmatch(r"[A-Za-z_]\w{0,200}", name, re.ASCII):
        raise GalleryError(f"{uri}: no name of letters, digits and _ behind the server; {ADDRESS}")
    return f"{parts.scheme}://{parts.hostname}:{port}", name
