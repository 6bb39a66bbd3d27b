"""The data: row schema, sources, audit, refinement, sanitizing, builds. Rests on `common` alone."""

from pemoe.datasets_scripts.builds.geotext_builder import GeoText1652
from pemoe.datasets_scripts.builds.rows import load_source, open_reader
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, DataError

__all__ = ["FEATURES", "PLATFORMS", "DataError", "GeoText1652", "load_source", "open_reader"]
