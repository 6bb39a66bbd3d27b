"""The row contract: column names, their types, the platforms and the splits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import datasets

from pemoe.common.errors import InputError

SPLITS = ("train", "test")
UNKNOWN = "unknown"  # stands where a platform's name is needed and none is known
RESERVED = ("all", UNKNOWN, "reports")  # names of a config and of folders in a built data set
_PLATFORM_NAME = re.compile(r"[a-z][a-z0-9_]*")


class DataError(InputError):
    """Bad input data."""


@dataclass(frozen=True)
class Platform:
    """What is known of a platform beside its name."""

    words: tuple[str, ...] = ()  # name it in tables and folders, in lower case without blanks, signs and plural
    from_above: bool = False  # its pictures look down


# a data set may hold others by their bare name (`--platform infrared`); an entry here gives one words and traits
PLATFORM_TRAITS: dict[str, Platform] = {
    "satellite": Platform(("satellite", "sat", "aerial", "overhead", "orthophoto"), from_above=True),
    "drone": Platform(("drone", "uav"), from_above=True),
    "ground": Platform(("ground", "street")),
}
PLATFORMS = ("satellite", "drone", "ground")  # of every data set; also the order of the model's expert axis


def check_platform(name: str) -> str:
    """A platform's name as it is; `DataError` unless of lower case letters, digits and `_`, and none of `RESERVED`."""
    if not _PLATFORM_NAME.fullmatch(name) or name in RESERVED:
        raise DataError(
            f"{name!r} is no name for a platform; use {', '.join(PLATFORMS)}, or a name of your own in lower case "
            f"letters, digits and _ (not {', '.join(RESERVED)})"
        )
    return name


def looks_down(platform: str | None) -> bool:
    """Whether a platform's pictures look down; an unknown platform's may."""
    return platform is None or PLATFORM_TRAITS.get(platform, Platform()).from_above


def order_platforms(names: Iterable[str]) -> tuple[str, ...]:
    """Names of platforms in the one order they have everywhere: `PLATFORMS`, others by the alphabet, "unknown".

    Example:
        >>> order_platforms({"infrared", "unknown", "ground", "drone"})
        ('drone', 'ground', 'infrared', 'unknown')
    """
    places = {name: place for place, name in enumerate(PLATFORMS)}
    return tuple(sorted(names, key=lambda name: (places.get(name, len(places)), name == UNKNOWN, name)))


def features_of(platforms: Iterable[str]) -> datasets.Features:
    """The columns of a data set with these platforms and the ones of `PLATFORMS`.

    A region's `bbox` is [cx, cy, w, h] as fractions of the image, or null.
    """
    text, degrees, texts = datasets.Value("string"), datasets.Value("float64"), datasets.List(datasets.Value("string"))
    return datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": text,
            "place_id": text,
            "platform": datasets.ClassLabel(names=list(order_platforms({*PLATFORMS, *platforms}))),
            "captions": texts,
            "refined_captions": texts,
            "regions": datasets.List({"text": text, "bbox": datasets.List(datasets.Value("float32"))}),
            "latitude_deg": degrees,
            "longitude_deg": degrees,
            "source": text,
            "split": text,
        }
    )


FEATURES = features_of(PLATFORMS)
