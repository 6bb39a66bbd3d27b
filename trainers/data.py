"""What training reads: the rows of a source, as text-image pairs, augmented where asked for, and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pemoe.datasets_scripts.augment.captions import transform_caption
from pemoe.datasets_scripts.augment.crops import random_crop
from pemoe.datasets_scripts.augment.pictures import AugmentationPlan, SatelliteAugmentation
from pemoe.datasets_scripts.builds.plan import REFINERS
from pemoe.datasets_scripts.builds.prepare import prepare_splits
from pemoe.datasets_scripts.sanitize import MODES, find_directions
from pemoe.datasets_scripts.schema import PLATFORMS, SPLITS
from pemoe.modeling_pemoe import PeMoEProcessor
from pemoe.modeling_pemoe.pictures_pemoe import read_picture
from pemoe.trainers.errors import TrainingError, check_choice
from pemoe.trainers.samplers import Visit

SATELLITE = PLATFORMS.index("satellite")
AUGMENTS = ("none", "sanitized", "transform", "crop")
_NOT_FOR_THE_MODEL = ("place_id", "platform_id", "has_negative")


@dataclass(frozen=True)
class DataRecipe:
    """Where the rows come from, `load_source(source, root, **options)`, and how they are prepared.

    audit: look for defects first, errors stop; refine: "rules" or "none", where the source brings no refined
    captions; sanitize: "remove", "mask" or "keep" directions in the training texts of satellite pictures.
    """

    source: str = "campus"
    root: str | None = None
    options: dict = field(default_factory=dict)
    audit: bool = True
    refine: str = "rules"
    sanitize: str = "remove"

    def __post_init__(self) -> None:
        check_choice("data.refine", self.refine, tuple(REFINERS))
        check_choice("data.sanitize", self.sanitize, (*MODES, "keep"))


def load_rows(
    data: DataRecipe, *, needed: Sequence[str] = SPLITS, optional: Sequence[str] = (), show_progress: bool = False
) -> datasets.DatasetDict:
    """The splits of a recipe's source, prepared as a build prepares them; see `prepare_splits`."""
    return prepare_splits(**asdict(data), needed=needed, optional=optional, show_progress=show_progress)


class PairAugmentation:
    """Augments a picture and its text together, a satellite's or any; a pure function of (seed, draw, row).

    Args:
        kind: "sanitized" flips and turns by any angle, only under a text that holds no direction (the paper's way;
            the build's sanitizer leaves most of them so); "transform" flips and turns by quarters, which every word
            can follow, rewrites the directions of the text with the picture, and leaves it in place where nothing
            true could be said. Light changes in both. "crop" takes 90 to 100 % of the area of a picture of any
            platform, see `random_crop`, and leaves the text as it is.
        seed: of the draws.

    Example:
        >>> augmentation = PairAugmentation("transform", seed=0)
        >>> picture, text, plan = augmentation.pair(Image.new("RGB", (8, 8)), "A round pond.", draw=0, row=3)
        >>> picture.size, text
        ((8, 8), 'A round pond.')
    """

    def __init__(self, kind: str, seed: int) -> None:
        check_choice("augment", kind, AUGMENTS[1:])
        self.kind, self.seed = kind, seed
        self.augmentation = SatelliteAugmentation(rotation="any" if kind == "sanitized" else "quarter", seed=seed)

    def covers(self, platform_id: int) -> bool:
        """Whether pictures of this platform are augmented."""
        return self.kind == "crop" or platform_id == SATELLITE

    def pair(self, image: Image.Image, text: str, draw: int, row: int) -> tuple[Image.Image, str, AugmentationPlan]:
        """The augmented picture of a row at its visit `draw`, the text that is true of it, and what was done."""
        if self.kind == "crop":
            return random_crop(image, self.seed, draw, row), text, AugmentationPlan()
        plan = self.augmentation.plan(draw, row, geometric=True)
        new_text = transform_caption(text, plan.geometry) if self.kind == "transform" else text
        if (self.kind == "sanitized" and find_directions(text)) or not new_text:
            new_text, plan = text, self.augmentation.plan(draw, row, geometric=False)
        return self.augmentation.apply(image, plan), new_text, plan

    def picture(self, image: Image.Image, draw: int, row: int, like: AugmentationPlan) -> Image.Image:
        """A mined negative, moved if its positive is: traces of the augmentation must not tell the two apart."""
        if self.kind == "crop":
            return random_crop(image, self.seed, draw, row)
        geometric = not like.geometry.is_identity
        return self.augmentation.apply(image, self.augmentation.plan(draw, row, geometric))


class PairDataset(Dataset):
    """Rows of the schema as pairs; one caption and one mined negative are drawn by (seed, visit, row).

    Args:
        rows, caption_column: a split with the columns of `schema.FEATURES`, and where captions are drawn from.
        seed: of the draws.
        hard_negatives: `(rows, k)` int64 row numbers of negatives, -1 where there are fewer; None for no negatives.
        image_states: trunk states of every row `(rows, N, W)`, used instead of the images.
        augment: of pictures and their texts, one of `AUGMENTS`; see `PairAugmentation`.

    Raises:
        TrainingError: a row without captions or platform, tables of another length than the rows, or trunk states
            (which are of the pictures as they are) together with augmentation.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        caption_column: str,
        seed: int,
        hard_negatives: np.ndarray | None = None,
        image_states: Tensor | None = None,
        augment: str = "none",
    ) -> None:
        if augment != "none" and image_states is not None:
            raise TrainingError("augment: pictures whose trunk states are cached cannot be augmented; cache none")
        self.captions: list[list[str]] = rows[caption_column][:]
        wordless = next((row for row, captions in enumerate(self.captions) if not captions), None)
        if wordless is not None:
            fault = f"row {rows[wordless]['image_id']} has no {caption_column}"
            raise TrainingError(f"{fault}: refine the captions first, or train on caption_column 'captions'")
        for name, table in (("hard_negatives", hard_negatives), ("image_states", image_states)):
            if table is not None and len(table) != len(rows):
                raise TrainingError(f"{name}: holds {len(table)} rows, the data set {len(rows)}")
        unknown = next((row for row, platform in enumerate(rows["platform"][:]) if platform is None), None)
        if unknown is not None:
            fault = f"row {rows[unknown]['image_id']} has no platform"
            raise TrainingError(f"{fault}: build the data with --platform, or a table with a column platform")
        self.images = rows.select_columns(["image"])
        self.place_id = number_places(rows["place_id"][:])
        self.platform_names: list[str] = rows.features["platform"].names
        self.platform_id = np.asarray(rows["platform"][:], dtype=np.int64)
        self.seed, self.hard_negatives, self.image_states = seed, hard_negatives, image_states
        self.augmentation = None if augment == "none" else PairAugmentation(augment, seed)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, visit: Visit) -> dict:
        """The pair of a visit: text, image or its trunk states, numbers, and the negative's image when mined."""
        row, draw = visit
        rng = np.random.default_rng((self.seed, draw, row))
        captions = self.captions[row]
        image, text, plan = self._image(row), captions[rng.integers(len(captions))], None
        if self.augmentation is not None and self.augmentation.covers(self.platform_id[row]):
            image, text, plan = self.augmentation.pair(image, text, draw, row)
        numbers = {"place_id": int(self.place_id[row]), "platform_id": int(self.platform_id[row])}
        pair = {"text": text, "image": image, **numbers}
        if self.hard_negatives is not None:
            found = self.hard_negatives[row][self.hard_negatives[row] >= 0]
            pair["has_negative"] = len(found) > 0
            # a row without a negative carries its own image as a filler, which the loss leaves out
            negative = int(found[rng.integers(len(found))]) if len(found) else row
            pair["negative_image"] = self._image(negative)
            if plan is not None:
                pair["negative_image"] = self.augmentation.picture(pair["negative_image"], draw, negative, plan)
        return pair

    def _image(self, row: int) -> Image.Image | Tensor:
        if self.image_states is not None:
            return self.image_states[row]
        return read_picture(self.images[row]["image"], row)  # augmentation must see what the processor would


class PairCollator:
    """Pairs to model inputs: positives first, then as many negatives in the same image tensor.

    Returns (when called with a list of B pairs):
        `input_ids`, `attention_mask (B, S)`; `pixel_values (B or 2B, 3, H, W)` or `image_states (B or 2B, N, W)`;
        `place_id`, `platform_id (B,)` int64, and with negatives `has_negative (B,)` bool.
    """

    def __init__(self, processor: PeMoEProcessor) -> None:
        self.processor = processor

    def __call__(self, pairs: list[dict]) -> dict[str, Tensor]:
        """One batch of pairs as tensors."""
        images = [pair["image"] for pair in pairs]
        images += [pair["negative_image"] for pair in pairs if "negative_image" in pair]
        batch = dict(self.processor(text=[pair["text"] for pair in pairs]))
        if isinstance(images[0], Tensor):
            batch["image_states"] = torch.stack(images)
        else:
            batch.update(self.processor(images=images))
        for name in _NOT_FOR_THE_MODEL:
            if name in pairs[0]:
                batch[name] = torch.tensor([pair[name] for pair in pairs])
        return batch


def model_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the model takes of a collated batch; the numbers are the losses' own."""
    return {name: tensor for name, tensor in batch.items() if name not in _NOT_FOR_THE_MODEL}


def number_places(place_id: Sequence[str]) -> np.ndarray:
    """int64 numbers of places, in sorted order of their names, `(n,)`."""
    return np.unique(np.asarray(place_id, dtype=str), return_inverse=True)[1].astype(np.int64)
