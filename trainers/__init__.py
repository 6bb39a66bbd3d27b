"""Learning: losses, batches, mining, the Trainer and the stages it runs."""

from pemoe.modeling_pemoe.losses_pemoe import LOSSES, InfoNCELoss, TripletLoss
from pemoe.trainers.arguments import PeMoETrainingArguments
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.mining import mine_hard_negatives, mine_split
from pemoe.trainers.trainer import PeMoETrainer

__all__ = [
    "LOSSES",
    "InfoNCELoss",
    "PeMoETrainer",
    "PeMoETrainingArguments",
    "TrainingError",
    "TripletLoss",
    "mine_hard_negatives",
    "mine_split",
]
