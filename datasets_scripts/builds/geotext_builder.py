"""`GeoText1652`, a builder of `datasets`: configs `all`, `satellite`, `drone`, `ground`, each raw or refined.

It is used from Python, since `datasets` runs no loading scripts any more; what users load from the Hub is the Parquet
that `pemoe data build` writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import datasets

from pemoe.datasets_scripts.builds.rows import open_reader
from pemoe.datasets_scripts.refine import RuleRefiner, refine_rows
from pemoe.datasets_scripts.refine.rules import RULES_VERSION
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, SPLITS


class GeoText1652Config(datasets.BuilderConfig):
    """Which rows: platforms, and whether `refined_captions` of the train split are filled by the rule refiner.

    Args:
        platforms: rows of other platforms are left out.
        refined: fill `refined_captions`.
        coordinates, names, filters, image_check: see `GeoTextReader`.
        fingerprint: of the files below `data_dir`, set by the builder: it names the cache.
        options: of `datasets.BuilderConfig`.
    """

    def __init__(
        self,
        platforms: Sequence[str] = PLATFORMS,
        refined: bool = False,
        coordinates: str | None = None,
        names: str | None = None,
        filters: Sequence[str] = (),
        image_check: bool = True,
        fingerprint: str = "",
        **options: Any,
    ) -> None:
        super().__init__(version=datasets.Version("1.0.0"), **options)
        self.platforms = tuple(platforms)
        self.refined = refined
        self.coordinates = coordinates
        self.names = names
        self.filters = tuple(filters)
        self.image_check = image_check
        self.fingerprint = fingerprint


def _configs() -> list[GeoText1652Config]:
    """Eight configs: `drone` holds raw captions, `drone_refined` refined ones beside them, and so on."""
    chosen = {"all": PLATFORMS, **{platform: (platform,) for platform in PLATFORMS}}
    return [
        GeoText1652Config(name=name + suffix, platforms=platforms, refined=bool(suffix))
        for suffix in ("", "_refined")
        for name, platforms in chosen.items()
    ]


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
    BUILDER_CONFIGS = _configs()
    DEFAULT_CONFIG_NAME = "all"

    def __init__(self, *args: Any, data_dir: str | None = None, **options: Any) -> None:
        fields = {key: options[key] for key in ("coordinates", "names", "filters", "image_check") if key in options}
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
        reader = open_reader(
            "geotext1652",
            config.data_dir,
            coordinates=config.coordinates,
            names=config.names,
            filters=config.filters,
            image_check=config.image_check,
            platforms=None if config.platforms == PLATFORMS else config.platforms,
        )
        rows = reader.rows(split, reader.place_ids(split))
        if config.refined and split == "train":
            rows = refine_rows(rows, RuleRefiner())
        for row in rows:
            yield row["image_id"], row
