"""Which source a user means, and the options of its reader, from what was typed."""

from __future__ import annotations

from typing import Any

from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.registry import detect_source, options_of

TYPED = {"filters": "filter", "place_id": "place-by"}  # option of a reader -> as typed, where they differ
TEST_SHARE = (3, 11)  # of a campus's places, about 150 of 550


def choose_source(root: str, kind: str | None = None, **given: Any) -> tuple[str, str | None, dict[str, Any]]:
    """The source that reads a user's data, and the options for its reader.

    Args:
        root: a directory, or "campus".
        kind: of source; None sees it from the files.
        given: options of readers, None or [] where not given; `places` of a campus, split into train and test;
            `seed`, which only a campus takes.

    Returns:
        Its name, its root (None for a campus, which has no files) and options as JSON types.

    Raises:
        DataError: no such source, or an option that it does not have.

    Example:
        >>> choose_source("campus", places=11, seed=3, table=None)
        ('campus', None, {'seed': 3, 'train_places': 8, 'test_places': 3})
    """
    name = kind or detect_source(root)
    options = {key: value for key, value in given.items() if value is not None and value != []}
    known = options_of(name)
    if "seed" not in known:
        options.pop("seed", None)
    if name == "campus" and "places" in options:
        places = options.pop("places")
        test_places = places * TEST_SHARE[0] // TEST_SHARE[1]
        options |= {"train_places": places - test_places, "test_places": test_places}
    for option in options:
        if option not in known:
            typed = TYPED.get(option, option.replace("_", "-"))
            raise DataError(f"{root} is a source of the kind {name}, which has no option --{typed}")
    if "names" in options and "coordinates" not in options:
        raise DataError("--names goes with --coordinates")
    return name, None if name == "campus" else root, options
