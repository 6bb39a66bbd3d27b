"""An index built by a Ray cluster: its machines read, encode and write; one commit on the driver makes it visible.

    places of a source -> read (tasks) -> batches of `ENCODED` -> encode (actors with the model) -> fragments of a
    Lance table (tasks) -> one commit -> `about`, without which a folder is no index

The batches are those of `ingest`, so rows, their order and their vectors are those of a build on one machine. What a
lost process or machine had in hand is done again by others; a build that fails leaves no index.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from pemoe.common.errors import InputError, one_line
from pemoe.retrieval.checkpoints import load_checkpoint
from pemoe.retrieval.index.engine import engine_of
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.ingest import ENCODED, IngestCounts, check_target, encode_batch
from pemoe.retrieval.index.lance import ABOUT, GALLERY, LanceEngine
from pemoe.retrieval.index.pictures import PictureRow, Pictures, read_pictures
from pemoe.retrieval.index.records import schema_of

if TYPE_CHECKING:
    from lance import FragmentMetadata
    from ray.data import Dataset

ROWS_PER_FRAGMENT = 2048
FILES = ("coordinates", "names")  # options that name a file
READ_TASKS, PLACES_PER_TASK = 10_000, 16  # so many tasks at most, so many places at least in each
LIGHT_CPUS = 0.25  # of a core, for tasks that wait for disks
CPUS_PER_ACTOR = 4  # where a machine has so many to spare
CONNECTING_S = 10
INSTALL = 'pip install "pemoe[ray]"'


@dataclass(frozen=True)
class Workers:
    """The actors that encode: how many, and what each takes of its machine."""

    actors: int
    cpus: float
    gpus: float


def build_on_ray(  # noqa: PLR0913 - options are keyword-only and documented one by one
    uri: str,
    data: str,
    model: str,
    address: str = "auto",
    *,
    split: str = "all",
    actors: int | None = None,
    cpus_per_actor: int | None = None,
    rows_per_fragment: int = ROWS_PER_FRAGMENT,
    show_progress: bool = False,
    storage_options: dict[str, str] | None = None,
    **options: Any,
) -> IngestCounts:
    """Build an index on a Ray cluster: the same rows and vectors as `ingest` into a new index.

    Args:
        uri: a directory that every machine of the cluster sees under this path, or `s3://bucket/folder`.
        data: "campus", a directory with pictures that every machine sees under this path, or an id on the Hub.
        model: a directory that every machine sees, or an id on the Hub.
        address: "auto" (the cluster this machine belongs to), "HOST:PORT", "ray://HOST:10001", or "local" for a
            cluster of this machine alone, started and ended here.
        split: "train", "test" or "all".
        actors: processes that encode; None takes one per GPU, or what the CPUs allow where there is no GPU.
        cpus_per_actor: cores of each; None takes up to 4 and leaves one core of each machine to reading and writing.
        rows_per_fragment: pictures per file of the index.
        show_progress: bars on stderr.
        storage_options: of object storage, as for `GalleryIndex.open`.
        options: of the source, as for `read_pictures`.

    Returns:
        How many pictures were written. The nearest-neighbour index is left to `GalleryIndex.optimize`, or to the
        cluster (docs/scale.md).

    Raises:
        GalleryError: Ray is missing or not reached, an index is there already, a machine cannot read what it needs, an
            address of Milvus; InputError: what the source or a picture has wrong, named.

    Example:
        >>> build_on_ray("/shared/photos.index", "/shared/photos", "/shared/model", "10.0.0.1:6379")  # doctest: +SKIP
    """
    _require_ray()
    uri = uri if "://" in uri else str(Path(uri).resolve())
    data, model = (str(Path(one).resolve()) if Path(one).is_dir() else one for one in (data, model))
    _check_free(uri)
    files = {name: os.path.abspath(options[name]) for name in FILES if options.get(name)}
    source = RayPictures(data, split, json.dumps(options | files))
    units = source.units()
    loaded, _ = load_checkpoint(model)
    identity = ModelIdentity.of(model, loaded)
    table = f"{uri.rstrip('/')}/{GALLERY}.lance"
    with _connected(address), _in_order(), _one_line_errors(), _removed_if_failed(table):
        _begin(table, identity.dimension, storage_options)
        _check_machines([data, model, table, *files.values()])
        workers = _choose_workers(actors, cpus_per_actor)
        encoded = _encode(source, units, identity, workers)
        written = _write(encoded, table, identity.dimension, rows_per_fragment, storage_options)
        with tqdm(total=source.open().count(), unit="picture", desc="build", disable=not show_progress) as bar:
            fragments = _collect(written, bar)
        _commit(fragments, table, identity.dimension, storage_options)
        _publish(uri, {"model": identity.as_json()}, storage_options)
    return IngestCounts(written=len(fragments.id_hashes))


def refuse_with_ray(**given: bool) -> None:
    """GalleryError for options of `pemoe index build` that a build on a cluster does not have."""
    for name, is_given in given.items():
        if is_given:
            raise GalleryError(f"--ray has no --{name.replace('_', '-')}; leave one of them out")


# ---- what is read ----


@dataclass(frozen=True)
class RayPictures:
    """The arguments of `read_pictures`; hashable, so that a process opens a source once."""

    root: str
    split: str
    options: str  # JSON

    def open(self) -> Pictures:
        """The pictures, opened once per process."""
        return _open(self)

    def units(self) -> list[dict[str, Any]]:
        """Runs of places in order, each read by one task; of a data set on the Hub one run for each split."""
        units = []
        for split, places in groupby(self.open().place_ids(), key=itemgetter(0)):
            ids = [place for _, place in places]
            step = max(PLACES_PER_TASK, -(-len(ids) // READ_TASKS))
            units += [{"split": split, "places": ids[start : start + step]} for start in range(0, len(ids), step)]
        return units


@cache
def _open(source: RayPictures) -> Pictures:
    return read_pictures(source.root, source.split, **json.loads(source.options))


def _read_places(batch: dict[str, Any], source: RayPictures) -> Iterator[dict[str, Any]]:
    """The pictures of some places, one by one; in a worker."""
    for split, places in zip(batch["split"], batch["places"], strict=True):
        for one in source.open().read(str(split), [str(place) for place in places]):
            yield {"data": [one.data], "facts": [pickle.dumps(one.facts)]}


# ---- what the workers do ----


class Encoder:
    """An actor that holds the model; GalleryError where its machine has other weights under that name."""

    def __init__(self, identity: ModelIdentity) -> None:
        self.model, self.processor = load_checkpoint(identity.repo)
        ModelIdentity.of(identity.repo, self.model).check_same(identity, f"{identity.repo} on {socket.gethostname()}")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A batch of pictures as rows of the index."""
        facts = batch["facts"].to_pylist()
        pairs = zip(batch["data"].to_pylist(), facts, strict=True)
        pictures = [PictureRow(data, pickle.loads(known)) for data, known in pairs]
        return encode_batch(pictures, self.model, self.processor)


def _encode(source: RayPictures, units: list[dict], identity: ModelIdentity, workers: Workers) -> Dataset:
    """The lazy rows of the index, in order."""
    import ray.data

    pictures = ray.data.from_items(units, override_num_blocks=len(units)).map_batches(
        _read_places, batch_size=1, fn_kwargs={"source": source}, num_cpus=LIGHT_CPUS
    )
    return pictures.repartition(target_num_rows_per_block=ENCODED, strict=True).map_batches(
        Encoder,
        batch_size=ENCODED,
        batch_format="pyarrow",
        fn_constructor_args=[identity],
        compute=ray.data.ActorPoolStrategy(size=workers.actors),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )


def _write_fragment(rows: pa.Table, table: str, dimension: int, storage: dict[str, str] | None) -> dict[str, Any]:
    """Rows as a file of the table that no version of it names yet; in a worker."""
    from lance.fragment import write_fragments

    schema = schema_of(dimension)
    fragments = write_fragments(rows.cast(schema), table, schema=schema, mode="overwrite", storage_options=storage)
    ids = b"".join(blake2b(one.encode(), digest_size=8).digest() for one in rows["image_id"].to_pylist())
    return {"fragments": [json.dumps([one.to_json() for one in fragments])], "ids": [ids]}


def _write(
    rows: Dataset, table: str, dimension: int, rows_per_fragment: int, storage: dict[str, str] | None
) -> Dataset:
    return rows.map_batches(
        _write_fragment,
        batch_size=rows_per_fragment,
        batch_format="pyarrow",
        fn_kwargs={"table": table, "dimension": dimension, "storage": storage},
        num_cpus=LIGHT_CPUS,
    )


# ---- what the driver does ----


def _begin(table: str, dimension: int, storage: dict[str, str] | None) -> None:
    """An empty table, which every later build takes away, should this process be killed."""
    import lance

    lance.write_dataset(schema_of(dimension).empty_table(), table, mode="overwrite", storage_options=storage)


@dataclass(frozen=True)
class Fragments:
    """Files of the table in order, and a hash of every row's `image_id`."""

    parts: list[FragmentMetadata]
    id_hashes: np.ndarray


def _collect(written: Dataset, bar: tqdm) -> Fragments:
    """Run everything; what was written."""
    import lance

    parts, hashes = [], [np.zeros(0, np.uint64)]
    for one in written.iter_rows():
        parts += [lance.FragmentMetadata.from_json(json.dumps(part)) for part in json.loads(one["fragments"])]
        hashes.append(np.frombuffer(one["ids"], dtype=np.uint64))
        bar.update(len(hashes[-1]))
    return Fragments(parts, np.concatenate(hashes))


def _commit(fragments: Fragments, table: str, dimension: int, storage: dict[str, str] | None) -> None:
    """Make one version of all fragments; GalleryError where an `image_id` comes twice."""
    import lance

    operation = lance.LanceOperation.Overwrite(schema_of(dimension), fragments.parts)
    dataset = lance.LanceDataset.commit(table, operation, storage_options=storage)
    if len(np.unique(fragments.id_hashes)) < len(fragments.id_hashes):
        _refuse_repeated(dataset)
    dataset.cleanup_old_versions(delete_unverified=True)  # what killed writers left


def _refuse_repeated(dataset: Any) -> None:
    ids = dataset.to_table(columns=["image_id"])["image_id"]
    counts = ids.value_counts()
    repeated = [one["values"] for one in counts.to_pylist() if one["counts"] > 1]
    if repeated:
        raise GalleryError(f"{len(repeated)} ids of pictures come twice, as {repeated[0]}; give each picture its own")


def _publish(uri: str, about: dict[str, Any], storage: dict[str, str] | None) -> None:
    """Write what makes a folder an index."""
    import lancedb

    database = lancedb.connect(uri, storage_options=storage)
    database.create_table(ABOUT, data=pa.table({"json": [json.dumps(about)]}))


def _check_free(uri: str) -> None:
    """Refuse an address of another engine, and one where something is."""
    if engine_of(uri) is not LanceEngine:
        raise GalleryError(f"{uri}: --ray writes a directory or s3://; a Milvus server is built without --ray")
    check_target(uri)


def _choose_workers(actors: int | None, cpus: int | None) -> Workers:
    """One actor per GPU; without any, as many as fit beside one core of each machine for reading and writing."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(one.get("GPU", 0) for one in machines))
    spare = [int(one.get("CPU", 0)) - 1 for one in machines]
    cpus = cpus or max(1, min(CPUS_PER_ACTOR, max(spare)))
    fitting = gpus or max(1, sum(cores // cpus for cores in spare if cores > 0))
    if actors is not None and (actors < 1 or actors > fitting):
        raise GalleryError(f"{actors} actors of {cpus} CPUs: this cluster holds {fitting}; lower one of the two")
    return Workers(actors or fitting, cpus, 1.0 if gpus else 0.0)


def _check_machines(paths: list[str]) -> None:
    """Refuse a machine that does not see what this one sees, before anything is encoded."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    paths = [one for one in paths if os.path.exists(one)]

    @ray.remote(num_cpus=0)
    def unseen(paths: list[str]) -> list[str]:  # in here it travels as it is: a look needs no import of torch
        return [path for path in paths if not os.path.exists(path)]

    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            for path in ray.get(unseen.options(scheduling_strategy=there).remote(paths)):
                where = f"not seen by the machine {node['NodeManagerAddress']} of the cluster"
                raise GalleryError(f"{path}: {where}; put it where every machine finds it under this path")


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """A connection to the cluster, ended here if it was made here."""
    import ray

    if ray.is_initialized():
        yield
        return
    _check_reached(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options["include_dashboard"] = False
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise GalleryError(
            f"--ray {address}: no cluster is reached ({one_line(error)[:150]}); start it with ray start --head"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reached(address: str) -> None:
    """Refuse an address where nothing listens; Ray itself would try for minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        if place.port is not None:
            socket.create_connection((place.hostname or "", place.port), CONNECTING_S).close()
        elif address not in ("auto", "local"):
            raise ValueError("no such address; use auto, local, HOST:PORT or ray://HOST:10001")
    except (OSError, ValueError) as error:
        raise GalleryError(
            f"--ray {address}: {one_line(error)[:150]}; start a cluster with ray start --head"
        ) from error


@contextmanager
def _in_order() -> Iterator[None]:
    """Blocks of Ray Data in the order of their rows, without its own lines on stderr."""
    import ray.data

    logger = logging.getLogger("ray.data")
    level, context = logger.level, ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    context.execution_options.preserve_order = True
    logger.setLevel(logging.ERROR)
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Workers' errors as what was wrong, in place of Ray's traces."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        causes = [one for one in _causes_of(error) if not isinstance(one, ray.exceptions.RayError)] or [error]
        for cause in causes:
            if isinstance(cause, InputError):
                said = str(cause).partition("\n")[0]  # Ray writes its advice below
                raise GalleryError(said) from error
            if isinstance(cause, ModuleNotFoundError):
                raise GalleryError(f"a machine of the cluster lacks {cause.name}; run {INSTALL} there") from error
        raise GalleryError(f"the cluster gave up: {one_line(causes[0])[:300]}") from error


def _causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, outermost first."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


@contextmanager
def _removed_if_failed(table: str) -> Iterator[None]:
    """Take the unfinished table of a directory away when the block fails; in object storage the next build does."""
    try:
        yield
    except BaseException:
        if "://" not in table:
            shutil.rmtree(table, ignore_errors=True)
            with suppress(OSError):
                Path(table).parent.rmdir()
        raise


def _require_ray() -> None:
    if find_spec("ray") is None or find_spec("lance") is None:
        raise GalleryError(f"--ray needs Ray and Lance; run {INSTALL}")
