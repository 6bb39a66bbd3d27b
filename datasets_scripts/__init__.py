"""The data: row schema, sources, sanitizing and refinement. Imports nothing else of ours."""

from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, DataError
from pemoe.datasets_scripts.sources import load_source

__all__ = ["FEATURES", "PLATFORMS", "DataError", "load_source"]
