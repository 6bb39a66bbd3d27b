"""`GeoText1652`, a builder of `datasets`: configs `all`, `satellite`, `drone`, `ground`, each raw or refined.

It is used from Python, since `datasets` runs no loading scripts any more; what users load from the Hub is the Parquet
that `pemoe data build` writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets

from pemoe.datasets_scripts.builds.rows import open_reader
from pemoe.datasets_scripts.refine import RuleRefiner, refine_rows
from pemoe.datasets_scripts.refine.rules import RULES_VERSION
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, SPLITS

READER_OPTIONS = ("coordinates", "names", "filters", "image_check")


@dataclass
class GeoText1652Config(datasets.BuilderConfig):
    """Which rows: platforms, and whether `refined_captions` of the train split are filled by the rule refiner.

    Args:
        platforms: rows of other platforms are left out.
        refined: fill `refined_captions`.
        coordinates, names, filters, image_check: see `GeoTextReader`.
        fingerprint: of the files below `data_dir`, set by the builder: it names the cache.
    """

    version: datasets.Version = field(default_factory=lambda: datasets.Version("1.0.0"))
    platforms: Sequence[str] = PLATFORMS
    refined: bool = False
    coordinates: str | None = None
    names: str | None = None
    filters: Sequence[str] = ()
    image_check: bool = True
    fingerprint: str = ""


class GeoText1652(datasets.GeneratorBasedBuilder):
    """Builds GeoText-1652 from its files, or streams it from them; images never lie in memory all at once.

    Args:
        data_dir: directory with the JSON files and `images/` (see `GeoTextReader`).
        options: `config_name`, `cache_dir` and others of `datasets.DatasetBuilder`; fields of `GeoText1652Config`.

    Raises:
        DataError: `data_dir` is missing or holds no such data set.

    Example:
        >>> builder = GeoText1652(config_name="drone", data_dir="GeoText1652_Dataset")      # doctest: +SKIP
        >>> builder.download_and_prepare()                                                  # doctest: +SKIP
        >>> builder.as_dataset(split="train").num_rows                                      # doctest: +SKIP
        37854
        >>> next(iter(builder.as_streaming_dataset(split="test")))["image_id"]              # doctest: +SKIP
        '0020/image-01.jpeg'
    """

    BUILDER_CONFIG_CLASS = GeoText1652Config
    BUILDER_CONFIGS = [  # noqa: RUF012 - as `datasets` has it
        GeoText1652Config(name=name + suffix, platforms=platforms, refined=bool(suffix))
        for suffix in ("", "_refined")  # `drone` holds raw captions, `drone_refined` refined ones beside them
        for name, platforms in {"all": PLATFORMS, **{platform: (platform,) for platform in PLATFORMS}}.items()
    ]
    DEFAULT_CONFIG_NAME = "all"

    def __init__(self, *args: Any, data_dir: str | None = None, **options: Any) -> None:
        fields = {key: options[key] for key in READER_OPTIONS if key in options}
        fingerprint = f"{open_reader('geotext1652', data_dir, **fields).fingerprint()}-{RULES_VERSION}"
        super().__init__(*args, data_dir=data_dir, fingerprint=fingerprint, **options)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Satellite, drone and ground pictures of university buildings with captions.",
            features=FEATURES,
            homepage="https://github.com/MultimodalGeo/GeoText-1652",
        )

    def _split_generators(self, _: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in SPLITS]

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.config
        platforms = None if tuple(config.platforms) == PLATFORMS else config.platforms
        options = {key: getattr(config, key) for key in READER_OPTIONS}
        reader = open_reader("geotext1652", config.data_dir, platforms=platforms, **options)
        rows = reader.rows(split, reader.place_ids(split))
        if config.refined and split == "train":
            rows = refine_rows(rows, RuleRefiner())
        for row in rows:
            yield row["image_id"], row
