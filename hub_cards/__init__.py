"""Publishing: cards rendered from what was measured, and pushes that go on where they stopped."""

from pemoe.hub_cards.dataset_card import CardOptions, render_dataset_card
from pemoe.hub_cards.push import PublishError, PushPlan, PushResult, plan_push, push_dataset

__all__ = ["CardOptions", "PublishError", "PushPlan", "PushResult", "plan_push", "push_dataset", "render_dataset_card"]
