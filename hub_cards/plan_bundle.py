"""What a push of a Space or of a metric sends: a few files that are made from the package's own."""

from __future__ import annotations

import re
from dataclasses import replace

from pemoe.hub_cards.hub_client import PublishError, check_ref_names, check_repo_id
from pemoe.hub_cards.push import PlannedFile, PushPlan, visibility_note
from pemoe.hub_cards.space_bundle import bundle_space


def plan_space(
    repo_id: str,
    model_repo: str,
    gallery_repo: str | None = None,
    *,
    model_revision: str | None = None,
    gallery_revision: str | None = None,
    private: bool = True,
    private_model: bool = False,
) -> PushPlan:
    """List the files of a Space that shows a published model; reaches no server.

    Args:
        repo_id: `owner/name` of the Space.
        model_repo: the model it loads, `owner/name`.
        gallery_repo: the data set it searches, `owner/name`; None: the pictures that its user gives.
        model_revision, gallery_revision: commits or tags that the Space stays at; None follows main, as a note says.
        private: whether only the owner shall see the Space.
        private_model: let its README say which secret the Space needs to read model and gallery.

    Raises:
        PublishError: an id that the Hub would refuse.

    Example:
        >>> plan_space("me/demo", "me/pemoe").repo_type  # doctest: +SKIP
        'space'
    """
    for name in (repo_id, model_repo, gallery_repo):
        if name is not None:
            check_repo_id(name)
    check_ref_names(model_revision, gallery_revision)
    revisions = {"model_revision": model_revision, "gallery_revision": gallery_revision}
    files = bundle_space(model_repo, gallery_repo, repo_id=repo_id, private_model=private_model, **revisions)
    plan = plan_bundle(files, repo_id, "space.json", private=private)
    loose = [name for name, at in ((model_repo, model_revision), (gallery_repo, gallery_revision)) if name and not at]
    if not loose:
        return plan
    follows = f"these files follow main of {' and '.join(loose)}"
    return replace(plan, notes=(*plan.notes, f"{follows}; a push by `pemoe publish space` stays at today's commits"))


def plan_metric(name: str, repo_id: str, *, private: bool = True) -> PushPlan:
    """List the files of a metric, which `evaluate.load("owner/name")` reads from a Space; reaches no server.

    Args:
        name: "geo_recall" or "challenge_score".
        repo_id: `owner/name` of its repository.

    Raises:
        InputError: an unknown metric, or an id that the Hub or `evaluate` would refuse.

    Example:
        >>> plan_metric("geo_recall", "me/geo_recall").repo_type  # doctest: +SKIP
        'space'
    """
    from pemoe.hub_cards.metrics_bundle import bundle_metric  # with evaluate, which takes seconds

    check_repo_id(repo_id)
    return plan_bundle(bundle_metric(name, repo_id), repo_id, f"{name}.py", private=private)


def plan_bundle(files: dict[str, bytes], repo_id: str, marker: str, *, private: bool = True) -> PushPlan:
    """A plan of a Space that holds these files (path -> content); a Space without `marker` is somebody else's.

    Raises:
        PublishError: the README names no `sdk`, so the Hub would not know what the Space is.
    """
    card = files["README.md"].decode()
    sdk = re.search(r"^sdk: (\w+)$", card.split("---")[1], re.MULTILINE) if card.startswith("---") else None
    if sdk is None:
        raise PublishError(f"{repo_id}: the README of a Space names its sdk, this one does not")
    planned = tuple(PlannedFile(path, content) for path, content in sorted(files.items()))
    notes, pattern = (visibility_note(private),), re.compile(re.escape(marker))
    ours = re.compile("|".join(map(re.escape, files)))  # what else lies there is its owner's
    return PushPlan(repo_id, "space", private, planned, card, pattern, ours, notes, space_sdk=sdk[1])
