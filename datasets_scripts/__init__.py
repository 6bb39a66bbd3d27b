"""The data: row schema, sources, audit, refinement, sanitizing, builds. Imports nothing else of ours."""

from pemoe.datasets_scripts.builds.geotext_builder import GeoText1652
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, DataError
from pemoe.datasets_scripts.sources.registry import load_source, open_reader

__all__ = ["FEATURES", "PLATFORMS", "DataError", "GeoText1652", "load_source", "open_reader"]
