"""From words, or a picture, to ranked places with coordinates."""

from pemoe.retrieval.locating.encoding import Query
from pemoe.retrieval.locating.locate import Locator, locate
from pemoe.retrieval.locating.queries import refine
from pemoe.retrieval.locating.results import Evidence, LocatedPlace, LocateResult

__all__ = ["Evidence", "LocateResult", "LocatedPlace", "Locator", "Query", "locate", "refine"]
