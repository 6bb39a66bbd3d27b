"""What training reads: the rows of a source, as text-image pairs, augmented where asked for, and in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pemoe.datasets_scripts.augment.captions import transform_caption
from pemoe.datasets_scripts.augment.crops import CropPlan, random_crop
from pemoe.datasets_scripts.augment.pictures import AugmentationPlan, SatelliteAugmentation
from pemoe.datasets_scripts.builds.plan import REFINERS
from pemoe.datasets_scripts.builds.prepare import prepare_splits
from pemoe.datasets_scripts.sanitize import MODES, find_directions
from pemoe.datasets_scripts.schema import PLATFORMS, SPLITS
from pemoe.modeling_pemoe import PeMoEProcessor
from pemoe.modeling_pemoe.pictures_pemoe import read_picture
from pemoe.retrieval.feature_cache import ImageStates, View
from pemoe.trainers.batches.samplers import Visit
from pemoe.trainers.errors import TrainingError, check_choice, check_range

SATELLITE = PLATFORMS.index("satellite")
AUGMENTS = ("none", "sanitized", "transform", "crop")
TEXTS, PICTURES = ("input_ids", "attention_mask"), ("pixel_values", "image_states")  # of a batch, for the model
NUMBERS = ("place_id", "platform_id", "has_negative")  # of a batch, for the losses and not for the model
Plan: TypeAlias = AugmentationPlan | CropPlan


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

    `draw` and `draw_like` choose, `apply` changes the picture.

    Args:
        kind: "sanitized" flips and turns by any angle, only under a text that holds no direction (the paper's way;
            the build's sanitizer leaves most of them so); "transform" flips and turns by quarters, which every word
            can follow, rewrites the directions of the text with the picture, and leaves it in place where nothing
            true could be said. Light changes in both. "crop" takes 90 to 100 % of the area of a picture of any
            platform, see `random_crop`, and leaves the text as it is.
        seed: of the draws.
        views: draw only this many ways of each picture, visit v taking way v % views; 0 draws every visit anew.

    Example:
        >>> augmentation = PairAugmentation("transform", seed=0)
        >>> picture, text, plan = augmentation.pair(Image.new("RGB", (8, 8)), "A round pond.", draw=0, row=3)
        >>> picture.size, text
        ((8, 8), 'A round pond.')
    """

    def __init__(self, kind: str, seed: int, views: int = 0) -> None:
        check_choice("augment", kind, AUGMENTS[1:])
        check_range("augmented_views", views, 0)
        self.kind, self.seed, self.views = kind, seed, views
        self.augmentation = SatelliteAugmentation(rotation="any" if kind == "sanitized" else "quarter", seed=seed)

    def covers(self, platform_id: int) -> bool:
        """Whether pictures of this platform are augmented."""
        return self.kind == "crop" or platform_id == SATELLITE

    def draw(self, text: str, draw: int, row: int) -> tuple[str, Plan]:
        """What is done to a row's picture at its visit `draw` under a text, and the text that is then true of it."""
        plan = self._plan(draw, row, geometric=True)
        new_text = transform_caption(text, plan.geometry) if self.kind == "transform" else text
        if (self.kind == "sanitized" and find_directions(text)) or not new_text:
            return text, self._plan(draw, row, geometric=False)
        return new_text, plan

    def draw_like(self, draw: int, row: int, like: Plan) -> Plan:
        """For a mined negative, moved if its positive is: traces of the augmentation must not tell the two apart."""
        return self._plan(draw, row, geometric=isinstance(like, CropPlan) or not like.geometry.is_identity)

    def _plan(self, draw: int, row: int, geometric: bool) -> Plan:
        draw = draw % self.views if self.views else draw
        return CropPlan(self.seed, draw, row) if self.kind == "crop" else self.augmentation.plan(draw, row, geometric)

    def apply(self, image: Image.Image, plan: Plan) -> Image.Image:
        """The picture as augmented."""
        return random_crop(image, *plan) if isinstance(plan, CropPlan) else self.augmentation.apply(image, plan)

    def pair(self, image: Image.Image, text: str, draw: int, row: int) -> tuple[Image.Image, str, Plan]:
        """The augmented picture of a row at its visit `draw`, the text that is true of it, and what was done."""
        new_text, plan = self.draw(text, draw, row)
        return self.apply(image, plan), new_text, plan


class PairDataset(Dataset):
    """Rows of the schema as pairs; one caption and one mined negative are drawn by (seed, visit, row).

    Args:
        rows, caption_column: a split with the columns of `schema.FEATURES`, and where captions are drawn from.
        seed: of the draws.
        hard_negatives: `(rows, k)` int64 row numbers of negatives, -1 where there are fewer; None for no negatives.
        image_states: trunk states used instead of the images: of every row `(rows, N, W)`, or those that
            `FeatureCache.states` gives, with augmentation of `views()`.
        augment: of pictures and their texts, one of `AUGMENTS`; see `PairAugmentation`.
        augmented_views: ways in which each picture is augmented, 0 for a new one at every visit.

    Raises:
        TrainingError: a row without captions or platform, tables of another length than the rows, or augmentation
            together with trunk states that do not hold its views.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        caption_column: str,
        seed: int,
        hard_negatives: np.ndarray | None = None,
        image_states: Tensor | ImageStates | None = None,
        augment: str = "none",
        augmented_views: int = 0,
    ) -> None:
        check_views(augment, augmented_views, cached=image_states is not None)
        if augment != "none" and isinstance(image_states, Tensor):
            raise TrainingError("augment: image_states holds pictures as they are; give states of a FeatureCache")
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
        self.augmentation = None if augment == "none" else PairAugmentation(augment, seed, augmented_views)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, visit: Visit) -> dict:
        """The pair of a visit: text, image or its trunk states, numbers, and the negative's image when mined."""
        row, draw = visit
        rng = np.random.default_rng((self.seed, draw, row))
        captions = self.captions[row]
        text, plan = captions[rng.integers(len(captions))], None
        if self._is_augmented(row):
            text, plan = self.augmentation.draw(text, draw, row)
        numbers = {"place_id": int(self.place_id[row]), "platform_id": int(self.platform_id[row])}
        pair = {"text": text, "image": self._image(row, plan), **numbers}
        if self.hard_negatives is not None:
            found = self._negatives_of(row)
            pair["has_negative"] = len(found) > 0
            # a row without a negative carries its own image as a filler, which the loss leaves out
            negative = int(found[rng.integers(len(found))]) if len(found) else row
            moved = None if plan is None else self.augmentation.draw_like(draw, negative, plan)
            pair["negative_image"] = self._image(negative, moved)
        return pair

    def plain_views(self) -> list[list[View]]:
        """Every row's picture as it is; with augmentation, those that it changes in a group of their own."""
        changed = [row for row in range(len(self)) if self._is_augmented(row)]
        others = sorted(set(range(len(self))) - set(changed))
        return [[(row, None) for row in rows] for rows in (others, changed) if rows]

    def views(self) -> list[list[View]]:
        """The pictures that training can show, each as it shows it, for `FeatureCache.states`.

        Raises TrainingError where augmentation draws without end.
        """
        if self.augmentation is None:
            return self.plain_views()
        check_views(self.augmentation.kind, self.augmentation.views, cached=True)
        shown = {(row, None): None for row in range(len(self)) if not self._is_augmented(row)}
        groups = [list(shown)]
        groups.append([view for row in range(len(self)) for view in self._augmented(row) if view not in shown])
        shown |= dict.fromkeys(groups[-1])
        if self.hard_negatives is not None:
            beside = (view for row in range(len(self)) for view in self._beside(row) if view not in shown)
            groups.append(list(dict.fromkeys(beside)))
        return [group for group in groups if group]

    def _is_augmented(self, row: int) -> bool:
        return self.augmentation is not None and self.augmentation.covers(self.platform_id[row])

    def _augmented(self, row: int) -> dict[View, None]:
        """The views of a row that its captions ask for, in order; none where it stays as it is."""
        if not self._is_augmented(row):
            return {}
        draws = ((text, draw) for draw in range(self.augmentation.views) for text in self.captions[row])
        return dict.fromkeys((row, self.augmentation.draw(text, draw, row)[1]) for text, draw in draws)

    def _beside(self, row: int) -> Iterator[View]:
        """The views of a row's negatives; of the row itself, which stands in where it has none, those it has."""
        negatives = [int(negative) for negative in self._negatives_of(row)] or [row]
        if not self._is_augmented(row):
            yield from ((negative, None) for negative in negatives)
            return
        for draw in range(self.augmentation.views):
            for text in self.captions[row]:
                plan = self.augmentation.draw(text, draw, row)[1]
                yield from ((negative, self.augmentation.draw_like(draw, negative, plan)) for negative in negatives)

    def _negatives_of(self, row: int) -> np.ndarray:
        return self.hard_negatives[row][self.hard_negatives[row] >= 0]

    def drawn_caption(self, visit: Visit) -> int:
        """Which caption of its row a visit shows: the first draw of `__getitem__`."""
        rng = np.random.default_rng((self.seed, visit.visit, visit.row))
        return int(rng.integers(len(self.captions[visit.row])))

    def _image(self, row: int, plan: Plan | None) -> Image.Image | Tensor:
        if self.image_states is not None:
            return self.image_states[row] if plan is None else self.image_states.view(row, plan)
        image = read_picture(self.images[row]["image"], row)  # augmentation must see what the processor would
        return image if plan is None else self.augmentation.apply(image, plan)


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
        for name in NUMBERS:
            if name in pairs[0]:
                batch[name] = torch.tensor([pair[name] for pair in pairs])
        return batch


def model_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the model takes of a collated batch; the numbers are the losses' own."""
    return {name: tensor for name, tensor in batch.items() if name not in NUMBERS}


def check_views(augment: str, augmented_views: int, cached: bool) -> None:
    """Raise TrainingError where views are limited of what is not augmented, or not limited of what is cached."""
    check_range("augmented_views", augmented_views, 0)
    if augment == "none" and augmented_views:
        raise TrainingError(f"augmented_views: {augmented_views}, but augment is none; set augment, or leave it out")
    if augment != "none" and cached and not augmented_views:
        what = f"augment: {augment} draws a new picture at every visit, which no cache can hold"
        raise TrainingError(f"{what}; set augmented_views to 1 or more, or cache_image_states to false")


def number_places(place_id: Sequence[str]) -> np.ndarray:
    """int64 numbers of places, in sorted order of their names, `(n,)`."""
    return np.unique(np.asarray(place_id, dtype=str), return_inverse=True)[1].astype(np.int64)
