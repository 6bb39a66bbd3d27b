"""Guards the losses: closed forms, loop twins in value and gradient, and that the same place is never a negative."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from pemoe.modeling_pemoe.losses_pemoe import InfoNCELoss, TripletLoss

FORMS = ("mask", "multi_positive")
PLACES = torch.tensor([3, 1, 3, 7, 1, 3])


def unit_rows(seed: int, rows: int = 6, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 5, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def loop_direction(query, gallery, place_id, scale, form):
    total = 0.0
    for i in range(len(query)):
        s = [scale * (query[i] * gallery[j]).sum() for j in range(len(gallery))]
        same = [j for j in range(len(gallery)) if place_id[j] == place_id[i]]
        if form == "mask":
            kept = [s[j] for j in range(len(gallery)) if j == i or j not in same]
            total = total - (s[i] - sum(x.exp() for x in kept).log())
        else:
            log_sum = sum(x.exp() for x in s).log()
            total = total - sum(s[p] - log_sum for p in same) / len(same)
    return total / len(query)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1, 2, 16])
def test_zeros_with_distinct_places_give_log_b(form, rows):
    loss = InfoNCELoss(form)(torch.zeros(rows, 4), torch.zeros(rows, 4), torch.arange(rows), torch.tensor(2.6))
    for name in ("loss", "loss_t2i", "loss_i2t"):
        assert loss[name].shape == () and loss[name].item() == pytest.approx(math.log(rows), abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_value_and_gradient_equal_the_loop(form):
    def leaves():
        tensors = unit_rows(0), unit_rows(1), torch.tensor(1.3, dtype=torch.float64)
        return [tensor.requires_grad_() for tensor in tensors]

    query, gallery, scale = leaves()
    loss = InfoNCELoss(form)(query, gallery, PLACES, scale)
    loss["loss"].backward()
    query_, gallery_, scale_ = leaves()
    t2i = loop_direction(query_, gallery_, PLACES.tolist(), scale_.exp(), form)
    i2t = loop_direction(gallery_, query_, PLACES.tolist(), scale_.exp(), form)
    ((t2i + i2t) / 2).backward()
    torch.testing.assert_close((loss["loss_t2i"], loss["loss_i2t"]), (t2i, i2t))
    assert loss["loss_t2i"].item() != pytest.approx(loss["loss_i2t"].item(), abs=1e-4)
    torch.testing.assert_close((query.grad, gallery.grad, scale.grad), (query_.grad, gallery_.grad, scale_.grad))


@pytest.mark.parametrize("form", FORMS)
def test_distinct_places_give_clip_loss(form):
    query, gallery, aligned = unit_rows(2), unit_rows(3), torch.arange(6)
    expected = F.cross_entropy(10 * query @ gallery.T, aligned) + F.cross_entropy(10 * gallery @ query.T, aligned)
    loss = InfoNCELoss(form)(query, gallery, aligned * 11 - 4, math.log(10))["loss"]
    torch.testing.assert_close(loss, expected / 2)


@pytest.mark.parametrize("form", FORMS)
def test_row_order_and_place_names_do_not_matter(form):
    order, scale = torch.tensor([4, 2, 0, 5, 3, 1]), torch.tensor(2.0)
    query, gallery = unit_rows(4), unit_rows(5)
    plain = InfoNCELoss(form)(query, gallery, PLACES, scale)["loss"]
    torch.testing.assert_close(InfoNCELoss(form)(query[order], gallery[order], PLACES[order], scale)["loss"], plain)
    torch.testing.assert_close(InfoNCELoss(form)(query, gallery, PLACES * 100 - 9, scale)["loss"], plain)


def test_mask_ignores_same_place_pairs():
    """Orthonormal galleries let one similarity move alone: that of text 0 with image 2, of one place."""
    query, gallery = torch.full((6, 6), 0.1), torch.eye(6)
    moved = query.clone()
    moved[0, 2] = 0.9
    assert PLACES[0] == PLACES[2]
    one, other = (InfoNCELoss("mask")(q, gallery, PLACES, 3.0)["loss"] for q in (query, moved))
    assert one.item() == other.item()
    as_negative = [InfoNCELoss("mask")(q, gallery, torch.arange(6), 3.0)["loss"].item() for q in (query, moved)]
    assert as_negative[1] > as_negative[0] + 0.1  # the same move costs when the places differ


def test_multi_positive_rewards_same_place_pairs():
    query, gallery = torch.full((6, 6), 0.1), torch.eye(6)
    moved = query.clone()
    moved[0, 2] = 0.12
    one, other = (InfoNCELoss("multi_positive")(q, gallery, PLACES, 1.0)["loss"].item() for q in (query, moved))
    assert other < one


def test_one_place_only_has_no_negatives():
    loss = InfoNCELoss("mask")(unit_rows(0), unit_rows(1), torch.zeros(6, dtype=torch.int64), 2.0)
    assert loss["loss"].item() == 0.0


@pytest.mark.parametrize("log_scale", [math.log(100), 5.0, 1000.0])
def test_scale_is_clamped_at_100_with_finite_gradient(log_scale):
    scale = torch.tensor(log_scale, requires_grad=True)
    query, gallery = unit_rows(0, dtype=torch.float32), unit_rows(1, dtype=torch.float32)
    loss = InfoNCELoss()(query, gallery, torch.arange(6), scale)["loss"]
    loss.backward()
    assert torch.isfinite(scale.grad)
    expected = InfoNCELoss()(query, gallery, torch.arange(6), math.log(100))["loss"]
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_fp32(form, dtype):
    query, gallery = unit_rows(0, dtype=dtype).requires_grad_(), unit_rows(1, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = InfoNCELoss(form)(query, gallery, PLACES, torch.tensor(math.log(100), dtype=dtype))["loss"]
        triplet = TripletLoss()(query, gallery, gallery.flip(0))["loss"]
    assert loss.dtype == triplet.dtype == torch.float32
    rounded = torch.tensor(math.log(100), dtype=dtype).float()
    expected = InfoNCELoss(form)(query.detach().float(), gallery.float(), PLACES, rounded)["loss"]
    torch.testing.assert_close(loss.detach(), expected)
    (loss + triplet).backward()
    assert torch.isfinite(query.grad).all()


def test_triplet_equals_the_loop_and_gradient():
    query, positive, negative = (unit_rows(seed).requires_grad_() for seed in (1, 2, 3))
    loss = TripletLoss(margin=0.3)(query, positive, negative)["loss"]
    terms = [0.3 - query[i] @ positive[i] + query[i] @ negative[i] for i in range(6)]
    assert any(term > 0 for term in terms) and any(term < 0 for term in terms)
    expected = sum(max(term, term * 0) for term in terms) / 6
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(
        torch.autograd.grad(loss, (query, positive, negative)),
        torch.autograd.grad(expected, (query, positive, negative)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_triplet_closed_forms():
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert TripletLoss(0.2)(east, east, north)["loss"].item() == 0.0
    assert TripletLoss(0.2)(east, north, east)["loss"].item() == pytest.approx(1.2)
    assert TripletLoss(0.0)(east, east, east)["loss"].item() == 0.0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"query_embeds": torch.zeros(3)}, "query_embeds is"),
        ({"gallery_embeds": torch.zeros(4, 4, dtype=torch.int64)}, "float matrix"),
        ({"gallery_embeds": torch.zeros(3, 4)}, "aligned"),
        ({"query_embeds": torch.zeros(0, 4), "gallery_embeds": torch.zeros(0, 4)}, "B >= 1"),
        ({"place_id": torch.arange(3)}, "one place per row"),
        ({"place_id": torch.zeros(4)}, "integer"),
        ({"place_id": ["a", "b", "c", "d"]}, "list"),
        ({"logit_scale": torch.zeros(4)}, "one number"),
    ],
)
def test_info_nce_refuses_bad_input(change, message):
    good = {"query_embeds": torch.zeros(4, 4), "gallery_embeds": torch.zeros(4, 4)}
    good |= {"place_id": torch.arange(4), "logit_scale": torch.tensor(1.0)}
    InfoNCELoss()(**good)
    with pytest.raises(ValueError, match=message):
        InfoNCELoss()(**(good | change))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="multi_positive"):
        InfoNCELoss("ignore")
    with pytest.raises(ValueError, match="margin"):
        TripletLoss(-0.1)
    with pytest.raises(ValueError, match="aligned"):
        TripletLoss()(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, 3))
