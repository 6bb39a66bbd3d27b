"""A request's queries to the JSON of its answer, without a server: the service and Inference Endpoints share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pemoe.common.errors import InputError
from pemoe.retrieval.locating.locate import Locator
from pemoe.retrieval.serving.limits import Limits, RequestError
from pemoe.retrieval.serving.pictures import decode_picture
from pemoe.retrieval.serving.requests import Asked


def answer_of(
    locator: Locator, asked: Asked, limits: Limits, is_wanted: Callable[[], bool] = lambda: True
) -> dict[str, Any] | list[dict[str, Any]]:
    """What `LocateResult.as_json` gives for each query; of a batch a list in the order of its queries.

    Args:
        locator, asked, limits: who answers, what, within which bounds.
        is_wanted: asked before each query; the rest of a batch is left out where nobody waits for it.

    Raises:
        RequestError: 422 for what no place can be looked for with, 413 and 422 for a picture.
    """
    answers = []
    for query in asked.queries:
        if answers and not is_wanted():
            break
        image = None if query.image is None else decode_picture(query.image, limits)
        try:
            result = locator.locate(query.texts, image, asked.where, asked.parameters.top_k)
        except InputError as error:
            raise RequestError(422, str(error)) from None
        answers.append(result.as_json(thumbnails=asked.parameters.thumbnails))
    return answers if asked.is_batch else answers[0]
