"""Trunk states of pictures on disk: computed once, read record by record, shared between stages, runs and recipes.

A cache is a folder with a folder for each kind of state, named by the hash of all that decides their values
(`kind.json` spells it out), so that states of another trunk, size or normalisation are never taken; the files in it
are those of `state_files`. Pictures go through the trunk in calls of `batch_size`, and are written call by call: after
a kill, or on a full disk, what is named is whole, and the rest is computed later in the same calls.

A state is named by its call (every picture in it, in order) and its place there, because its last bits depend on them:
libraries of matrix products order their sums by the size of the whole product. Only a call of one picture depends on
nothing else. So a state read here has the bits of the trunk called on the same pictures; `batch_size=1` gives those of
any step that calls the trunk on one picture at a time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Hashable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from pemoe.common.files import write_json
from pemoe.common.version import __version__
from pemoe.datasets_scripts.augment.pictures import SatelliteAugmentation
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.backbones_pemoe import hash_trunks
from pemoe.modeling_pemoe.pictures_pemoe import read_picture
from pemoe.retrieval.state_files import DTYPES, CallWriter, FeatureCacheError, Records, find_calls

View = tuple[int, Hashable | None]  # a row's picture, and how it is augmented: None for not at all
GB = 10**9
_LIBRARIES = ("torch", "torchvision", "timm", "transformers", "pillow")


class ImageStates:
    """Trunk states of a split's pictures, read from the disk when asked for; worker processes open the files anew.

    Args:
        n_rows, records: rows of the split, and what a record is.
        found: of each view its file and the number of its record there.

    Example:
        >>> states = cache.states()  # doctest: +SKIP
        >>> states[7].shape, states[[7, 3]].shape  # doctest: +SKIP
        (torch.Size([577, 1024]), torch.Size([2, 577, 1024]))
    """

    def __init__(self, n_rows: int, records: Records, found: dict[View, tuple[Path, int]]) -> None:
        self.n_rows, self.records, self.found = n_rows, records, found
        self._files: dict[Path, np.memmap] = {}

    def __len__(self) -> int:
        return self.n_rows

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": {}}

    def __getitem__(self, rows: int | Sequence[int]) -> Tensor:
        """State of the picture of a row as it is `(N, W)`, of several rows `(n, N, W)`."""
        return self.view(rows) if np.ndim(rows) == 0 else torch.stack([self.view(row) for row in rows])

    def view(self, row: int, plan: Hashable | None = None) -> Tensor:
        """State `(N, W)` of a row's picture as augmented by `plan`.

        Raises FeatureCacheError where it was not among the views that were asked for.
        """
        if (int(row), plan) not in self.found:
            what = f"row {row} is wanted in a view that was not asked for"
            raise FeatureCacheError(
                f"feature cache: {what}; fill it with PairDataset.views() of the same seed and data"
            )
        path, number = self.found[int(row), plan]
        if path not in self._files:
            self._files[path] = np.memmap(path, DTYPES[self.records.dtype][0], "r")
        size = self.records.shape[0] * self.records.shape[1]
        values = np.array(self._files[path][number * size : (number + 1) * size])  # a copy: the file is read only
        if self.records.dtype == "bfloat16":
            return torch.from_numpy(values.view("<i2")).view(torch.bfloat16).view(self.records.shape)
        return torch.from_numpy(values).view(self.records.shape)


class FeatureCache:
    """The trunk states of one split under one model, in a folder that any number of runs may share.

    Args:
        directory: the folder; it is made.
        model, processor: whose frozen image trunk runs, and what turns pictures into its input.
        rows: a split with a column `image`.
        dtype: "float32" or "bfloat16" (half the size, rounded); None for the trunk's own.
        max_gb: what the folder may hold, in 1e9 bytes.
        batch_size: pictures per call of the trunk.
        num_workers: processes that read and prepare pictures.
        show_progress: bars on stderr.

    Raises:
        FeatureCacheError: a trunk that trains or carries an adapter, an unknown dtype, a folder that cannot be made.
    """

    def __init__(  # noqa: PLR0913 -- where, of what (3), how stored (2), how computed (2), and a bar
        self,
        directory: str | Path,
        model: PeMoEModel,
        processor: PeMoEProcessor,
        rows: datasets.Dataset,
        dtype: str | None = None,
        max_gb: float = 100.0,
        batch_size: int = 64,
        num_workers: int = 0,
        show_progress: bool = False,
    ) -> None:
        check_trunk_is_frozen(model)
        own_dtype = "bfloat16" if model.dtype_of_trunk == torch.bfloat16 else "float32"
        if dtype not in (None, *DTYPES):
            raise FeatureCacheError(f"feature_cache.dtype: {dtype!r} is unknown, use one of {', '.join(DTYPES)}")
        self.directory, self.model, self.max_gb, self.batch_size = Path(directory), model, max_gb, batch_size
        self.num_workers, self.show_progress = num_workers, show_progress
        self.pictures = _Pictures(rows.select_columns(["image"]), processor)
        self.records = Records(self._shape_of_state(), dtype or own_dtype)
        kind = {**self._facts(), "dtype": self.records.dtype, "shape": list(self.records.shape)}
        self.kind = hashlib.sha256(json.dumps(kind, sort_keys=True, default=str).encode()).hexdigest()
        self.folder = self.directory / self.kind[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "kind.json").is_file():
                write_json(self.folder / "kind.json", json.loads(json.dumps(kind, default=str)))
        except OSError as error:
            what = f"cannot be written ({error.strerror}); name another folder in feature_cache.directory"
            raise FeatureCacheError(f"feature cache {self.directory}: {what}") from error

    def states(
        self,
        groups: Sequence[Sequence[View]] | None = None,
        apply: Callable[[Image.Image, Hashable], Image.Image] = SatelliteAugmentation.apply,
        share: tuple[int, int] = (0, 1),
        wait: Callable[[], None] = lambda: None,
    ) -> ImageStates:
        """The states of these views; those that the disk does not hold are computed first.

        Args:
            groups: views that go through the trunk together, each group in calls of its own; None is every row's
                picture as it is.
            apply: turns a picture and a plan into the augmented picture.
            share: number of this process and of all; each computes a part, in the same calls as a single one.
            wait: returns when every process has called it.

        Raises:
            FeatureCacheError: no room for them, before anything is computed; or the disk is full.
        """
        groups = [[(row, None) for row in range(len(self.pictures))]] if groups is None else groups
        calls = [list(call) for group in groups for call in _cut(group, self.batch_size)]
        keys = self.pictures.hash_calls(calls, self.show_progress and share[0] == 0)
        found = find_calls(self.folder, self.records)
        missing = [number for number, key in enumerate(keys) if key not in found]
        self._check_room(sum(len(calls[number]) for number in missing))
        wait()  # all have seen the same room
        mine = [number for number in missing if number % share[1] == share[0]]
        if mine:
            self._compute([calls[number] for number in mine], [keys[number] for number in mine], apply)
        wait()
        found = find_calls(self.folder, self.records) if missing else found
        lost = [key for key in keys if key not in found]
        if lost:
            raise FeatureCacheError(f"feature cache {self.directory}: files vanished while it was filled; run again")
        located = {}
        for call, key in zip(calls, keys, strict=True):
            path, first = found[key]
            located.update({view: (path, first + place) for place, view in enumerate(call)})
        return ImageStates(len(self.pictures), self.records, located)

    def _facts(self) -> dict:
        """All that decides the values of a state beside its call."""
        config, processor = self.model.config, self.pictures.processor.image_processor
        return {
            "trunk_sha256": hash_trunks(self.model.vision_trunk.state_dict(), self.model.dtype_of_trunk, ("",)),
            "trunk_dtype": str(self.model.dtype_of_trunk),
            "vision_config": config.vision_config,
            "image_size_px": config.image_size,
            "preprocessing": {"class": type(processor).__name__, **processor.to_dict()},
            "device": self.model.device.type,
            "versions": {"pemoe": __version__, **{name: version(name) for name in _LIBRARIES}},
        }

    @torch.no_grad()
    def _shape_of_state(self) -> tuple[int, int]:
        """(N, W): seen on one picture."""
        pixels = self.pictures.pixels([(0, None)], None)
        _, tokens, width = self.model.encode_image_trunk(pixels.to(self.model.device)).shape
        return tokens, width

    def _check_room(self, n_records: int) -> None:
        """Refuse what would not fit, before anything is computed."""
        if not n_records:
            return
        need, held = n_records * self.records.n_bytes, _bytes_below(self.directory)
        free = shutil.disk_usage(self.folder).free
        halved = "" if self.records.dtype == "bfloat16" else "dtype bfloat16 (half of it), "
        what = f"{n_records} pictures need {need / GB:.3g} GB more ({self.records.n_bytes / 1e6:.3g} MB each)"
        advice = f"use {halved}fewer augmented_views, another feature_cache.directory"
        if held + need > self.max_gb * GB:
            room = f"it holds {held / GB:.3g} GB and max_gb is {self.max_gb:g}"
            raise FeatureCacheError(f"feature cache {self.directory}: {what}, {room}; {advice} or a larger max_gb")
        if need > free:
            room = f"the disk has {free / GB:.3g} GB left"
            raise FeatureCacheError(f"feature cache {self.directory}: {what}, {room}; {advice} or make room")

    @torch.no_grad()
    def _compute(self, calls: list[list[View]], keys: list[bytes], apply: Callable) -> None:
        """Run the trunk on calls, and write each as soon as it is there."""
        options = {"num_workers": self.num_workers, "collate_fn": _as_it_is, "generator": torch.Generator()}
        loader = DataLoader(_Calls(self.pictures, calls, apply), batch_size=None, **options)
        bar = tqdm(total=sum(map(len, calls)), desc="images", disable=not self.show_progress)
        with bar, CallWriter(self.folder, self.records) as writer:
            for key, pixels in zip(keys, loader, strict=True):
                states = self.model.encode_image_trunk(pixels.to(self.model.device))
                writer.append(key, states.cpu())
                bar.update(len(pixels))


def check_trunk_is_frozen(model: nn.Module) -> None:
    """Raise FeatureCacheError where the image trunk trains or carries an adapter: its states would not stay."""
    trunk = model.vision_trunk
    trained = next((name for name, parameter in trunk.named_parameters() if parameter.requires_grad), None)
    carries = any(type(module).__module__.startswith("peft.") for module in trunk.modules())
    if trained is not None or carries:
        what = "carries an adapter" if carries else f"trains ({trained})"
        raise FeatureCacheError(
            f"feature cache: the image trunk {what}, so its states change; cache none (cache_image_states: false)"
        )


class _Pictures:
    """The pictures of a split: their hashes, and the pixels that the trunk gets of them."""

    def __init__(self, images: datasets.Dataset, processor: PeMoEProcessor) -> None:
        self.images, self.processor = images, processor
        self.encoded = images.cast_column("image", datasets.Image(decode=False))
        self._hashes: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, call: Sequence[View], apply: Callable | None) -> Tensor:
        """Input of the trunk for one call, `(n, 3, H, W)`."""
        pictures = [read_picture(self.images[row]["image"], row) for row, _ in call]
        plans = [plan for _, plan in call]
        pictures = [p if plan is None else apply(p, plan) for p, plan in zip(pictures, plans, strict=True)]
        return self.processor(images=pictures)["pixel_values"]

    def hash_calls(self, calls: list[list[View]], show_progress: bool) -> list[bytes]:
        """SHA-256 of each call: of its pictures' bytes and plans, in order."""
        rows = sorted({row for call in calls for row, _ in call} - set(self._hashes))
        for row in tqdm(rows, desc="image hashes", disable=not (rows and show_progress)):
            self._hashes[row] = self._hash(row)
        parts = ([self._hashes[row] + repr(plan).encode() for row, plan in call] for call in calls)
        return [hashlib.sha256(b"\0".join(part)).digest() for part in parts]

    def _hash(self, row: int) -> bytes:
        image = self.encoded[row]["image"]
        encoded = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
        return hashlib.sha256(encoded).digest()


class _Calls(Dataset):
    """Pixels call by call, for worker processes."""

    def __init__(self, pictures: _Pictures, calls: list[list[View]], apply: Callable) -> None:
        self.pictures, self.calls, self.apply = pictures, calls, apply

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, number: int) -> Tensor:
        return self.pictures.pixels(self.calls[number], self.apply)


def _as_it_is(pixels: Tensor) -> Tensor:
    return pixels


def _cut(views: Sequence[View], size: int) -> Iterator[Sequence[View]]:
    return (views[start : start + size] for start in range(0, len(views), size))


def _bytes_below(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*/*.states"))
