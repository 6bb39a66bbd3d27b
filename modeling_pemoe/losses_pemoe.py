"""Retrieval losses on embeddings: InfoNCE that knows about places, in its variants, and the cosine triplet."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_LOG_SCALE = math.log(100.0)
SAME_PLACE = ("mask", "multi_positive", "negative")
DIRECTIONS = ("symmetric", "t2i")
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class InfoNCELoss(nn.Module):
    """InfoNCE of row-aligned text and image embeddings that knows which rows are of the same place.

    With s_ij = exp(logit_scale) * q_i . v_j, exp clamped to at most 100, and y the places (Radford et al. 2021, CLIP,
    Fig. 3, for the symmetric form):

    - `same_place="mask"`: row i is -log( exp s_ii / sum_{j : j = i or y_j != y_i} exp s_ij ): the only positive is the
      aligned one, other images of the same place leave the denominator.
    - `same_place="multi_positive"`: row i is -1/|P_i| * sum_{p in P_i} log( exp s_ip / sum_j exp s_ij ) with
      P_i = {p : y_p = y_i}, the aligned one included (Khosla et al. 2020, SupCon, Eq. 2, L_out, across modalities).
    - `same_place="negative"`: row i is -log( exp s_ii / sum_j exp s_ij ): places are not looked at.

    The loss is the mean over rows, once for text to image, once for image to text, and their mean. All forms are
    plain InfoNCE when all places differ. The arithmetic is fp32 whatever the input (fp64 stays fp64), also under
    autocast.

    Args:
        same_place: as above.
        label_smoothing: e in [0, 1), torch's: row i is (1 - e) times the above plus e times the mean of -log p_ij over
            the columns j of its denominator; what "mask" takes out of that gets no share.
        direction: "symmetric", or "t2i" for text to image alone.
        hardness: b >= 0; in the denominator of row i, exp s_ij of each negative j is multiplied by
            exp(b s_ij) / mean_n exp(b s_in), the mean over its negatives n (Robinson et al. 2021, Sec. 3, without
            their correction for false negatives, which the places do); 0 is plain InfoNCE, bit for bit.

    Raises:
        ValueError: an unknown choice or a number out of range; on a call, embeddings that are not two equal (B, D)
            float matrices with B >= 1, `place_id` that is not (B,) integers, or a `logit_scale` that is no one number.

    Example:
        >>> loss = InfoNCELoss()(torch.zeros(4, 8), torch.zeros(4, 8), torch.arange(4), torch.tensor(0.0))
        >>> round(loss["loss"].item(), 4)  # log 4
        1.3863
    """

    def __init__(
        self,
        same_place: str = "mask",
        label_smoothing: float = 0.0,
        direction: str = "symmetric",
        hardness: float = 0.0,
    ):
        super().__init__()
        for name, value, choices in (("same_place", same_place, SAME_PLACE), ("direction", direction, DIRECTIONS)):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}: use one of {', '.join(choices)}")
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is {label_smoothing}: it must lie in [0, 1)")
        if not 0.0 <= hardness < math.inf:
            raise ValueError(f"hardness is {hardness}: it must be a finite number of at least 0")
        self.same_place, self.direction = same_place, direction
        self.label_smoothing, self.hardness = label_smoothing, hardness

    def forward(
        self, query_embeds: Tensor, gallery_embeds: Tensor, place_id: Tensor, logit_scale: Tensor | float
    ) -> dict[str, Tensor]:
        """ "loss", "loss_t2i" and "loss_i2t" of one (joined) batch, 0-d; loss = (loss_t2i + loss_i2t) / 2.

        `query_embeds` and `gallery_embeds` are unit rows (B, D), image i belonging to text i; `place_id` is (B,)
        integer; `logit_scale` is the log of the inverse temperature, one number. With B = 1 all losses are 0.
        With `direction="t2i"`, loss is loss_t2i and there is no "loss_i2t".
        """
        _check_aligned(query_embeds=query_embeds, gallery_embeds=gallery_embeds)
        place_id = _checked_place_id(place_id, query_embeds)
        with torch.autocast(query_embeds.device.type, enabled=False):
            logits = _scale(logit_scale, query_embeds) * (_wide(query_embeds) @ _wide(gallery_embeds).T)  # (B, B)
            same = place_id[:, None] == place_id[None, :]  # (B, B)
            loss_t2i = self._direction(logits, same)
            if self.direction == "t2i":
                return {"loss": loss_t2i, "loss_t2i": loss_t2i}
            loss_i2t = self._direction(logits.T, same)
        return {"loss": (loss_t2i + loss_i2t) / 2, "loss_t2i": loss_t2i, "loss_i2t": loss_i2t}

    def _direction(self, logits: Tensor, same: Tensor) -> Tensor:
        """Mean over rows of the loss of `logits` (B, B), positives on the diagonal; `same` (B, B) marks one place."""
        aligned = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        if self.hardness:
            logits = _weigh_negatives(logits, ~(aligned if self.same_place == "negative" else same), self.hardness)
        if self.same_place == "mask":
            logits = logits.masked_fill(same & ~aligned, -torch.inf)
        if self.same_place == "multi_positive":
            loss = (-(logits.log_softmax(dim=1) * same).sum(dim=1) / same.sum(dim=1)).mean()
        else:
            loss = F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
        return smooth_labels(loss, logits, self.label_smoothing)


def smooth_labels(loss: Tensor, logits: Tensor, label_smoothing: float) -> Tensor:
    """A mean cross-entropy with label smoothing e: (1 - e) * loss + e * mean_i mean_j -log softmax(logits)_ij.

    As torch's `cross_entropy` does it, but over each row's classes that are not masked (logit -inf): their -log
    probability is infinite, and no target may ask for them. `loss` is 0-d, `logits` (B, C); 0 gives `loss` itself.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> smoothed = smooth_labels(F.cross_entropy(logits, torch.tensor([0])), logits, 0.5)
        >>> torch.equal(smoothed, F.cross_entropy(logits, torch.tensor([0]), label_smoothing=0.5))
        True
    """
    if not label_smoothing:
        return loss
    masked = logits.isneginf()
    log_probability = logits.log_softmax(dim=1).masked_fill(masked, 0.0)
    spread = -(log_probability.sum(dim=1) / (~masked).sum(dim=1)).mean()
    return (1 - label_smoothing) * loss + label_smoothing * spread


def _weigh_negatives(logits: Tensor, negative: Tensor, hardness: float) -> Tensor:
    """`logits` (B, B) plus log w at the negatives, w = exp(hardness * logit), of mean 1 over a row's negatives."""
    log_weights = hardness * logits
    lowest = torch.finfo(logits.dtype).min  # not -inf, whose gradient is NaN where a row has no negative
    log_sum = log_weights.masked_fill(~negative, lowest).logsumexp(dim=1, keepdim=True)  # (B, 1)
    log_mean = log_sum - negative.sum(dim=1, keepdim=True).clamp(min=1).log()
    return torch.where(negative, logits + log_weights - log_mean, logits)


def _info_nce(hardness: float | None = None, **options: object) -> InfoNCELoss:
    if hardness is not None:
        raise ValueError(f"hardness: {hardness} is for loss 'hard_weighted'; name that loss or leave it out")
    return InfoNCELoss(**options)


def _sup_con(same_place: str = "mask", **options: object) -> InfoNCELoss:
    if same_place == "negative":
        raise ValueError("same_place: 'negative' contradicts loss 'sup_con', whose positives are of one place")
    return _info_nce(same_place="multi_positive", **options)


def _hard_weighted(hardness: float | None = None, **options: object) -> InfoNCELoss:
    if hardness is None:
        raise ValueError("hardness: loss 'hard_weighted' needs a number, 0 for plain InfoNCE")
    return InfoNCELoss(hardness=hardness, **options)


# by name; each takes the keywords of InfoNCELoss and raises ValueError for one that it would not use
LOSSES: dict[str, Callable[..., InfoNCELoss]] = {
    "info_nce": _info_nce,
    "sup_con": _sup_con,
    "hard_weighted": _hard_weighted,
}


class TripletLoss(nn.Module):
    """Cosine triplet hinge: mean_i max(0, margin - q_i . p_i + q_i . n_i)   (Schroff et al. 2015, Eq. 2, in cosines).

    The inputs are unit rows and are used as they are: nothing is normalised here. `margin` is a cosine difference in
    [0, 2]. The arithmetic is fp32 whatever the input (fp64 stays fp64).

    Raises:
        ValueError: `margin` outside [0, 2]; on a call, inputs that are not three equal (B, D) float matrices, B >= 1.

    Example:
        >>> row = torch.tensor([[1.0, 0.0]])
        >>> round(TripletLoss(margin=0.2)(row, row, row)["loss"].item(), 4)
        0.2
    """

    def __init__(self, margin: float = 0.2):
        super().__init__()
        if not 0.0 <= margin <= 2.0:
            raise ValueError(f"margin is {margin}: a difference of cosines lies in [0, 2]")
        self.margin = margin

    def forward(self, query_embeds: Tensor, positive_embeds: Tensor, negative_embeds: Tensor) -> dict[str, Tensor]:
        """Return {"loss": 0-d} of row-aligned (B, D) queries, positives and hard negatives."""
        _check_aligned(query_embeds=query_embeds, positive_embeds=positive_embeds, negative_embeds=negative_embeds)
        query = _wide(query_embeds)
        positive = (query * _wide(positive_embeds)).sum(dim=1)  # (B,)
        negative = (query * _wide(negative_embeds)).sum(dim=1)  # (B,)
        return {"loss": F.relu(self.margin - positive + negative).mean()}


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in at least fp32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _scale(logit_scale: Tensor | float, like: Tensor) -> Tensor:
    """exp(logit_scale), at most 100; the log is clamped, since exp first would turn a huge log's gradient into NaN."""
    scale = torch.as_tensor(logit_scale, device=like.device)
    if scale.numel() != 1:
        raise ValueError(f"logit_scale has shape {tuple(scale.shape)}: it must be one number, the log")
    return _wide(scale).reshape(()).clamp(max=MAX_LOG_SCALE).exp()


def _checked_place_id(place_id: Tensor, query_embeds: Tensor) -> Tensor:
    """`place_id` on the embeddings' device, after checking that it is one integer per row."""
    is_tensor, rows = isinstance(place_id, Tensor), len(query_embeds)
    if not is_tensor or place_id.shape != (rows,) or place_id.dtype not in INTEGERS:
        found = f"{tuple(place_id.shape)} {place_id.dtype}" if is_tensor else type(place_id).__name__
        raise ValueError(f"place_id is {found}: it must be an integer tensor of shape ({rows},), one place per row")
    return place_id.to(query_embeds.device)


def _check_aligned(**embeds: Tensor) -> None:
    """Raise unless all tensors are floating matrices of one shape with at least one row."""
    first_name, first = next(iter(embeds.items()))
    for name, tensor in embeds.items():
        found = f"{name} is {tuple(tensor.shape)} {tensor.dtype}"
        if tensor.ndim != 2 or not tensor.is_floating_point() or not len(tensor):
            raise ValueError(f"{found}: it must be a float matrix (B, D), B >= 1")
        if tensor.shape != first.shape:
            raise ValueError(f"{found}, {first_name} {tuple(first.shape)}: rows must be aligned")
