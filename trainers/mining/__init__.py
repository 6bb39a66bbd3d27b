"""Hard negatives: the wrong places that score highest."""

from pemoe.trainers.mining.hard_negatives import FalseNegatives, mine_hard_negatives
from pemoe.trainers.mining.options import MineRecipe, read_coordinates_deg
from pemoe.trainers.mining.split import mine_split
from pemoe.trainers.mining.table import NEGATIVES, load_negatives

__all__ = [
    "NEGATIVES",
    "FalseNegatives",
    "MineRecipe",
    "load_negatives",
    "mine_hard_negatives",
    "mine_split",
    "read_coordinates_deg",
]
