"""Hard negatives: the wrong places that score highest."""

from pemoe.trainers.mining.hard_negatives import FalseNegatives, mine_hard_negatives
from pemoe.trainers.mining.split import NEGATIVES, mine_split, save_negatives

__all__ = ["NEGATIVES", "FalseNegatives", "mine_hard_negatives", "mine_split", "save_negatives"]
