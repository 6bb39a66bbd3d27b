"""Guards the variants of InfoNCE: each equals a slow twin in value and gradient, smoothing is torch's where nothing is
masked and gives masked columns nothing, and the defaults are plain InfoNCE bit for bit."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from pemoe.modeling_pemoe.losses_pemoe import LOSSES, SAME_PLACE, InfoNCELoss, smooth_labels

PLACES = [3, 1, 3, 7, 1, 3]
ONE_PLACE = [5] * 6  # rows without a negative
SCALE = 1.3


def leaves() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    rows = [F.normalize(torch.randn(6, 5, generator=generator, dtype=torch.float64), dim=1) for _ in range(2)]
    return [tensor.requires_grad_() for tensor in (*rows, torch.tensor(SCALE, dtype=torch.float64))]


def slow_row(scores, i, places, same_place, smoothing, hardness):
    """Row i as the definition says it, over its columns one by one."""
    same = [j for j in range(len(scores)) if places[j] == places[i]]
    positives = same if same_place == "multi_positive" else [i]
    columns = [j for j in range(len(scores)) if same_place != "mask" or j == i or j not in same]
    negatives = [j for j in columns if j not in positives]
    weight = dict.fromkeys(columns, 1.0)
    if negatives and hardness:
        mean = sum((hardness * scores[j]).exp() for j in negatives) / len(negatives)
        weight |= {j: (hardness * scores[j]).exp() / mean for j in negatives}
    terms = {j: weight[j] * scores[j].exp() for j in columns}
    surprise = {j: -(terms[j] / sum(terms.values())).log() for j in columns}
    hard = sum(surprise[p] for p in positives) / len(positives)
    return (1 - smoothing) * hard + smoothing * sum(surprise.values()) / len(columns)


def slow_loss(query, gallery, log_scale, places, direction, **options):
    scores = log_scale.exp() * query @ gallery.T
    t2i = sum(slow_row(scores[i], i, places, **options) for i in range(len(places))) / len(places)
    i2t = sum(slow_row(scores[:, i], i, places, **options) for i in range(len(places))) / len(places)
    return t2i if direction == "t2i" else (t2i + i2t) / 2


@pytest.mark.parametrize("places", [PLACES, ONE_PLACE, list(range(6))])
@pytest.mark.parametrize("same_place", SAME_PLACE)
def test_value_and_gradient_equal_the_slow_twin(same_place: str, places: list[int]) -> None:
    for smoothing, hardness, direction in itertools.product((0.0, 0.2), (0.0, 0.7), ("symmetric", "t2i")):
        ours, twins = leaves(), leaves()
        loss = InfoNCELoss(same_place, smoothing, direction, hardness)
        value = loss(*ours[:2], torch.tensor(places), ours[2])["loss"]
        options = {"same_place": same_place, "smoothing": smoothing, "hardness": hardness}
        expected = slow_loss(*twins, places, direction, **options)
        torch.testing.assert_close(value, expected)
        (value + 0 * sum(t.sum() for t in ours)).backward()
        expected.backward()
        torch.testing.assert_close([t.grad for t in ours], [t.grad for t in twins])


def test_smoothing_without_masked_columns_is_torchs() -> None:
    query, gallery, log_scale = leaves()
    logits, aligned = log_scale.exp() * query @ gallery.T, torch.arange(6)
    expected = F.cross_entropy(logits, aligned, label_smoothing=0.1)
    for same_place in SAME_PLACE:
        loss = InfoNCELoss(same_place, label_smoothing=0.1, direction="t2i")(query, gallery, aligned, log_scale)
        torch.testing.assert_close(loss["loss"], expected)


def test_smoothing_over_masked_columns_is_torchs_on_the_columns_that_stay() -> None:
    query, gallery, log_scale = leaves()
    logits = log_scale.exp() * query @ gallery.T
    rows = []
    for i, place in enumerate(PLACES):
        kept = [j for j in range(6) if j == i or PLACES[j] != place]
        rows.append(F.cross_entropy(logits[i : i + 1, kept], torch.tensor([kept.index(i)]), label_smoothing=0.1))
    loss = InfoNCELoss(label_smoothing=0.1, direction="t2i")(query, gallery, torch.tensor(PLACES), log_scale)["loss"]
    torch.testing.assert_close(loss, torch.stack(rows).mean())


def test_hard_negatives_of_weight_zero_are_plain_info_nce_bit_for_bit() -> None:
    query, gallery, log_scale = (tensor.float() for tensor in leaves())
    given = query, gallery, torch.tensor(PLACES), log_scale
    plain = LOSSES["info_nce"]()(*given)
    assert all(
        torch.equal(plain[name], value) for name, value in LOSSES["hard_weighted"](hardness=0.0)(*given).items()
    )


def test_a_harder_negative_counts_more_than_its_share() -> None:
    query, gallery, log_scale = leaves()
    places = torch.arange(6)
    near = F.normalize(gallery + 0.5 * query.roll(1, 0), dim=1)
    grows = [InfoNCELoss(hardness=b)(query, near, places, log_scale)["loss"] for b in (0.0, 1.0, 2.0)]
    assert grows[0] < grows[1] < grows[2]


def test_sup_con_is_the_multi_positive_form() -> None:
    query, gallery, log_scale = leaves()
    given = query, gallery, torch.tensor(PLACES), log_scale
    assert torch.equal(LOSSES["sup_con"]()(*given)["loss"], InfoNCELoss("multi_positive")(*given)["loss"])


def test_other_pictures_of_a_place_are_negatives_where_asked_for() -> None:
    query, gallery, log_scale = leaves()
    loss = InfoNCELoss("negative")
    one = loss(query, gallery, torch.tensor(ONE_PLACE), log_scale)["loss"]
    assert torch.equal(one, loss(query, gallery, torch.arange(6), log_scale)["loss"])
    assert torch.equal(one, InfoNCELoss()(query, gallery, torch.arange(6), log_scale)["loss"])


def test_masked_classes_get_no_smoothing() -> None:
    logits = torch.tensor([[1.0, -math.inf, 0.0], [0.5, -math.inf, 2.0]])
    kept = logits[:, [0, 2]]
    expected = F.cross_entropy(kept, torch.tensor([0, 1]), label_smoothing=0.3)
    plain = F.cross_entropy(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(smooth_labels(plain, logits, 0.3), expected)
    assert smooth_labels(plain, logits, 0.0) is plain


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("info_nce", {"hardness": 0.5}, "hard_weighted"),
        ("sup_con", {"hardness": 0.5}, "hard_weighted"),
        ("sup_con", {"same_place": "negative"}, "same_place"),
        ("hard_weighted", {}, "hardness"),
        ("hard_weighted", {"hardness": -1.0}, "hardness"),
        ("hard_weighted", {"hardness": math.inf}, "hardness"),
        ("info_nce", {"label_smoothing": 1.0}, "label_smoothing"),
        ("info_nce", {"label_smoothing": -0.1}, "label_smoothing"),
        ("info_nce", {"direction": "i2t"}, "direction"),
    ],
)
def test_what_a_loss_would_not_use_is_refused(name: str, options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        LOSSES[name](**options)
