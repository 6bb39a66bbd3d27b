"""What a push of a Space or of a metric sends: a few files that are made from the package's own."""

from __future__ import annotations

import re

from pemoe.hub_cards.hub_client import PublishError, check_repo_id
from pemoe.hub_cards.push import PlannedFile, PushPlan, visibility_note

OURS = re.compile(r"[a-z_]+\.py|requirements\.txt")


def plan_space(repo_id: str, model_repo: str, gallery_repo: str | None = None, *, private: bool = True) -> PushPlan:
    """List the files of a Space that shows a published model; reaches no server.

    Args:
        repo_id: `owner/name` of the Space.
        model_repo: the model it loads, `owner/name`.
        gallery_repo: the data set it searches, `owner/name`; None: the pictures that its user gives.

    Raises:
        PublishError: an id that the Hub would refuse.
    """
    from pemoe.hub_cards.space_bundle import bundle_space

    for name in (model_repo, gallery_repo):
        if name is not None:
            check_repo_id(name)
    return plan_bundle(bundle_space(model_repo, gallery_repo), repo_id, private=private)


def plan_metric(name: str, repo_id: str, *, private: bool = True) -> PushPlan:
    """List the files of a metric, which `evaluate.load("owner/name")` reads from a Space; reaches no server.

    Args:
        name: "geo_recall" or "challenge_score".
        repo_id: `owner/name` of its repository.

    Raises:
        PublishError: an unknown metric, or an id that the Hub would refuse.
    """
    from pemoe.hub_cards.metrics_bundle import bundle_metric

    try:
        files = bundle_metric(name)
    except (KeyError, ValueError) as error:
        raise PublishError(f"{name!r} is no metric of this package: use geo_recall or challenge_score") from error
    return plan_bundle(files, repo_id, private=private)


def plan_bundle(files: dict[str, bytes], repo_id: str, *, private: bool = True) -> PushPlan:
    """A plan of a Space repository that holds these files; its README is the card.

    A repository without the bundle's first module (in the order of their names) is somebody else's.
    """
    check_repo_id(repo_id)
    card = files["README.md"].decode()
    modules = sorted(path for path in files if path.endswith(".py"))
    planned = tuple(PlannedFile(path, content) for path, content in sorted(files.items()))
    marker = re.compile(re.escape(modules[0]))
    return PushPlan(repo_id, "space", private, planned, card, marker, OURS, (visibility_note(private),))
