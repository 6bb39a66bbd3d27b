"""The score of the RoboSense 2025 challenge, Track 4: the mean of recall at 1 and recall at 10 by place."""

import evaluate
import numpy as np

from pemoe.hub_cards.ranked_places import RankedPlaces
from pemoe.retrieval.metrics import recalls


class ChallengeScore(RankedPlaces, evaluate.Metric):
    """Gives `score`, a fraction."""

    measures = __doc__

    def _figures(self, ranks: np.ndarray) -> dict[str, float]:
        return {"score": recalls(ranks)["score"]}
