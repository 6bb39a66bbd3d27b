"""Training rows as text-image pairs: which caption, which negative, which numbers for places and platforms."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pemoe.datasets_scripts.schema import PLATFORMS
from pemoe.modeling_pemoe import PeMoEProcessor
from pemoe.trainers.augmentation import PairAugmentation
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.samplers import Visit

SATELLITE = PLATFORMS.index("satellite")


class PairDataset(Dataset):
    """Rows of the schema as pairs; one caption and one mined negative are drawn by (seed, visit, row).

    Args:
        rows: a split with the columns of `schema.FEATURES`.
        caption_column: where captions are drawn from.
        seed: of the draws.
        hard_negatives: `(rows, k)` int64 row numbers of negatives, -1 where there are fewer; None for no negatives.
        image_states: trunk states of every row `(rows, N, W)`, used instead of the images.
        augmentation: of satellite pictures and their texts; None leaves them as they are.

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
        augmentation: PairAugmentation | None = None,
    ) -> None:
        if augmentation is not None and image_states is not None:
            raise TrainingError("augment: pictures whose trunk states are cached cannot be augmented; cache none")
        self.captions: list[list[str]] = rows[caption_column][:]
        for position, captions in enumerate(self.captions):
            if not captions:
                raise TrainingError(
                    f"row {rows[position]['image_id']} has no {caption_column}: refine the captions first, or train "
                    "on caption_column 'captions'"
                )
        for name, table in (("hard_negatives", hard_negatives), ("image_states", image_states)):
            if table is not None and len(table) != len(rows):
                raise TrainingError(f"{name}: holds {len(table)} rows, the data set {len(rows)}")
        unknown = next((k for k, platform in enumerate(rows["platform"][:]) if platform is None), None)
        if unknown is not None:
            raise TrainingError(
                f"row {rows[unknown]['image_id']} has no platform: build the data with --platform or --classify"
            )
        self.images = rows.select_columns(["image"])
        self.place_id = number_places(rows["place_id"][:])
        self.platform_names: list[str] = rows.features["platform"].names
        self.platform_id = np.asarray(rows["platform"][:], dtype=np.int64)
        self.seed = seed
        self.hard_negatives = hard_negatives
        self.image_states = image_states
        self.augmentation = augmentation

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.captions)

    def __getitem__(self, visit: Visit) -> dict:
        """The pair of a visit: text, image or its trunk states, numbers, and the negative's image when mined."""
        row, draw = visit
        rng = np.random.default_rng((self.seed, draw, row))
        captions = self.captions[row]
        image, text, plan = self._image(row), captions[rng.integers(len(captions))], None
        if self.augmentation is not None and self.platform_id[row] == SATELLITE:
            image, text, plan = self.augmentation.pair(image, text, draw, row)
        pair = {
            "text": text,
            "image": image,
            "place_id": int(self.place_id[row]),
            "platform_id": int(self.platform_id[row]),
        }
        if self.hard_negatives is not None:
            found = self.hard_negatives[row][self.hard_negatives[row] >= 0]
            pair["has_negative"] = len(found) > 0
            # a row without a negative carries its own image as a filler, which the loss leaves out
            negative = int(found[rng.integers(len(found))]) if len(found) else row
            pair["negative_image"] = self._image(negative)
            if plan is not None:
                pair["negative_image"] = self.augmentation.picture(pair["negative_image"], draw, negative, plan)
        return pair

    def _image(self, row: int):
        return self.images[row]["image"] if self.image_states is None else self.image_states[row]


class PairCollator:
    """Pairs to model inputs: positives first, then as many negatives in the same image tensor.

    Args:
        processor: tokenizer and image processor.

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
        for name in ("place_id", "platform_id", "has_negative"):
            if name in pairs[0]:
                batch[name] = torch.tensor([pair[name] for pair in pairs])
        return batch


def number_places(place_id: Sequence[str]) -> np.ndarray:
    """int64 numbers of places, in sorted order of their names, `(n,)`."""
    return np.unique(np.asarray(place_id, dtype=str), return_inverse=True)[1].astype(np.int64)
