"""Publishing: cards rendered from what was measured, and pushes that go on where they stopped."""

from pemoe.hub_cards.dataset_card import CardOptions, render_dataset_card
from pemoe.hub_cards.hub_client import PublishError
from pemoe.hub_cards.plan_bundle import plan_metric, plan_space
from pemoe.hub_cards.plan_dataset import plan_dataset
from pemoe.hub_cards.plan_model import plan_model
from pemoe.hub_cards.push import PushPlan, PushResult, push

__all__ = [
    "CardOptions",
    "PublishError",
    "PushPlan",
    "PushResult",
    "plan_dataset",
    "plan_metric",
    "plan_model",
    "plan_space",
    "push",
    "render_dataset_card",
]
