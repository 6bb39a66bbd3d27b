"""The files of a Space that shows a model: page, what it needs, and `space.json` with the names of both."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jinja2
from huggingface_hub import SpaceCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from pemoe.common.errors import InputError

TITLE = "Find a place from a sentence"
SOURCE = Path(__file__).with_name("space")
ROOMS = SOURCE.parents[1]
MODULES = (  # they travel flat, so the last part of a name is the module's name in the Space
    "hub_cards/space/app.py",
    "hub_cards/space/page.py",
    "common/maps.py",
    "common/place_cards.py",
    "common/geodesy.py",
    "retrieval/locating/queries.py",
    "retrieval/locating/ranking.py",
    "datasets_scripts/text/sentences.py",
)
FILES = ("hub_cards/space/page.js", "common/coastline.json")
EXAMPLES = (
    "round white arena beside a car park",
    "long brick building with a flat roof and trees along the street",
    "grey office building with rows of windows beside a lawn",
    "building with a dome and columns at the entrance",
)
GALLERY_PICTURES = 120  # read when the Space starts: about a second each on its free computer


def bundle_space(
    model_repo: str,
    gallery_repo: str | None = None,
    *,
    repo_id: str | None = None,
    model_revision: str | None = None,
    gallery_revision: str | None = None,
    private_model: bool = False,
) -> dict[str, bytes]:
    """The files of the Space, by path: README.md, app.py, what it imports and reads, requirements.txt, space.json.

    Args:
        model_repo, gallery_repo: ids on the Hub; directories, by their whole paths, serve to try the page here.
            Without a gallery the page searches uploaded pictures alone.
        repo_id: `owner/name` of the Space; None: it runs on this computer.
        model_revision, gallery_revision: commits or tags to stay at; None follows main.
        private_model: README then says which secret the Space needs.

    Raises:
        InputError: a name that is neither an id on the Hub nor a directory.

    Example:
        >>> sorted(bundle_space("me/pemoe", "me/campus"))[:5]
        ['README.md', 'app.py', 'coastline.json', 'geodesy.py', 'maps.py']
    """
    model_id, gallery_id = _hub_id(model_repo), _hub_id(gallery_repo) if gallery_repo else None
    requirements = (SOURCE / "requirements.txt").read_text(encoding="utf-8")
    front_matter = SpaceCardData(
        title=TITLE,
        sdk="gradio",
        sdk_version=re.search(r"^gradio==(\S+)$", requirements, re.MULTILINE)[1],
        app_file="app.py",
        license="apache-2.0",
        models=[model_id] if model_id else None,
        datasets=[gallery_id] if gallery_id else None,
        short_description="Text to place, across satellite, drone and ground",
    )
    template = jinja2.Template(
        (SOURCE / "README.md").read_text(encoding="utf-8"),
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    readme = template.render(
        front_matter=front_matter.to_yaml(),
        title=TITLE,
        address=repo_id or "http://127.0.0.1:7860",
        model=model_repo,
        model_url=f"https://huggingface.co/{model_id}" if model_id else None,
        gallery=gallery_repo,
        gallery_url=f"https://huggingface.co/datasets/{gallery_id}" if gallery_id else None,
        private_model=private_model,
    )
    settings = {
        "title": TITLE,
        "model": model_id or str(Path(model_repo).resolve()),
        "model_revision": model_revision,
        "gallery": gallery_repo and (gallery_id or str(Path(gallery_repo).resolve())),
        "gallery_revision": gallery_revision,
        "gallery_pictures": GALLERY_PICTURES,
        "examples": list(EXAMPLES),
    }
    return {
        "README.md": readme.encode(),
        **{Path(path).name: _flatten(ROOMS / path) for path in MODULES},
        **{Path(path).name: (ROOMS / path).read_bytes() for path in FILES},
        "requirements.txt": requirements.encode(),
        "space.json": (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode(),
    }


def _flatten(path: Path) -> bytes:
    """A module of the package as it reads where the package is not: its imports of ours name files beside it."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"^(\s*from) pemoe\.(?:\w+\.)*(\w+) import", r"\1 \2 import", text, flags=re.MULTILINE).encode()


def _hub_id(name: str) -> str | None:
    """The id, None for a directory, which is not spelled owner/name; `InputError` for anything else."""
    try:
        validate_repo_id(name)
        if name.count("/") == 1:
            return name
    except HFValidationError:
        pass
    if not name or not Path(name).is_dir():
        raise InputError(f"{name or 'the repository'} is neither owner/name on the Hub nor a directory: correct it")
    return None
