"""Retrieval losses on embeddings: symmetric InfoNCE that knows about places, and the cosine triplet."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_LOG_SCALE = math.log(100.0)
SAME_PLACE = ("mask", "multi_positive")
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class InfoNCELoss(nn.Module):
    """Symmetric InfoNCE of row-aligned text and image embeddings; the same place is never a negative.

    With s_ij = exp(logit_scale) * q_i . v_j, exp clamped to at most 100, and y the places (Radford et al. 2021, CLIP,
    Fig. 3, for the symmetric form):

    - `same_place="mask"`: row i is -log( exp s_ii / sum_{j : j = i or y_j != y_i} exp s_ij ): the only positive is the
      aligned one, other images of the same place leave the denominator.
    - `same_place="multi_positive"`: row i is -1/|P_i| * sum_{p in P_i} log( exp s_ip / sum_j exp s_ij ) with
      P_i = {p : y_p = y_i}, the aligned one included (Khosla et al. 2020, SupCon, Eq. 2, L_out, across modalities).

    The loss is the mean over rows, once for text to image, once for image to text, and their mean. Both forms are
    plain InfoNCE when all places differ. The arithmetic is fp32 whatever the input (fp64 stays fp64), also under
    autocast.

    Raises:
        ValueError: unknown `same_place`; on a call, embeddings that are not two equal (B, D) float matrices with
            B >= 1, `place_id` that is not (B,) integers, or a `logit_scale` that is not one number.

    Example:
        >>> loss = InfoNCELoss()(torch.zeros(4, 8), torch.zeros(4, 8), torch.arange(4), torch.tensor(0.0))
        >>> round(loss["loss"].item(), 4)  # log 4
        1.3863
    """

    def __init__(self, same_place: str = "mask"):
        super().__init__()
        if same_place not in SAME_PLACE:
            raise ValueError(f"same_place is {same_place!r}: use one of {', '.join(SAME_PLACE)}")
        self.same_place = same_place

    def forward(
        self, query_embeds: Tensor, gallery_embeds: Tensor, place_id: Tensor, logit_scale: Tensor | float
    ) -> dict[str, Tensor]:
        """ "loss", "loss_t2i" and "loss_i2t" of one (joined) batch, 0-d; loss = (loss_t2i + loss_i2t) / 2.

        `query_embeds` and `gallery_embeds` are unit rows (B, D), image i belonging to text i; `place_id` is (B,)
        integer; `logit_scale` is the log of the inverse temperature, one number. With B = 1 all losses are 0.
        """
        _check_aligned(query_embeds=query_embeds, gallery_embeds=gallery_embeds)
        place_id = _checked_place_id(place_id, query_embeds)
        with torch.autocast(query_embeds.device.type, enabled=False):
            logits = _scale(logit_scale, query_embeds) * (_wide(query_embeds) @ _wide(gallery_embeds).T)  # (B, B)
            same = place_id[:, None] == place_id[None, :]  # (B, B)
            loss_t2i = self._direction(logits, same)
            loss_i2t = self._direction(logits.T, same)
        return {"loss": (loss_t2i + loss_i2t) / 2, "loss_t2i": loss_t2i, "loss_i2t": loss_i2t}

    def _direction(self, logits: Tensor, same: Tensor) -> Tensor:
        """Mean over rows of the loss of `logits` (B, B), positives on the diagonal; `same` (B, B) marks one place."""
        if self.same_place == "multi_positive":
            return (-(logits.log_softmax(dim=1) * same).sum(dim=1) / same.sum(dim=1)).mean()
        aligned = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same & ~aligned, -torch.inf)
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


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
