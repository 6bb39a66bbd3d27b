"""Talking to the Hub so that a user understands it: a token, and every failure as one line."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from pemoe.common.addresses import without_user
from pemoe.common.errors import InputError

# of a branch or tag, as git checks it: parts between slashes, none of which begins with a dot or ends in .lock
REF_NAME = re.compile(r"(?!@$|[-/.])(?!.*(?:\.\.|//|/\.|@\{|\.lock(?:/|$)))[^\s~^:?*\[\\\x00-\x1f\x7f]+(?<![/.])")
ANSWER_TIMEOUT_S = 120.0  # the client's own is none at all: a Hub that fell silent would hold a push for ever
NONSENSE = (KeyError, TypeError, AttributeError)  # what the client raises where an answer lacks what it reads


class PublishError(InputError):
    """A push that cannot go on, in one line; no token is ever in it."""


def require_token(token: str | None) -> str:
    """The given token, else that of `hf auth login` or HF_TOKEN.

    Raises:
        PublishError: there is none.

    Example:
        >>> require_token("hf_given")
        'hf_given'
    """
    found = token or get_token()
    if not found:
        raise PublishError("no token for the Hub: run `hf auth login`, or set HF_TOKEN to a token that may write")
    return found


def check_repo_id(repo_id: str) -> str:
    """The id as it is.

    Raises:
        PublishError: the Hub would refuse it, or it names no owner.

    Example:
        >>> check_repo_id("me/pemoe")
        'me/pemoe'
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} is no repository id ({error}): write it as owner/name") from error
    if repo_id.count("/") != 1:
        raise PublishError(f"{repo_id!r} is no repository id: write it as owner/name")
    return repo_id


def check_license_id(license_id: str) -> str:
    """The id as it is.

    Raises:
        PublishError: the Hub does not spell licences so.

    Example:
        >>> check_license_id("cc-by-4.0")
        'cc-by-4.0'
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license_id):
        raise PublishError(f"{license_id!r} is no licence as the Hub spells them: use e.g. cc-by-4.0, mit or other")
    return license_id


def check_ref_names(*names: str | None) -> None:
    """Refuse (PublishError) what git or the Hub takes for no name of a branch or tag; None is none asked for.

    Example:
        >>> check_ref_names("v1.0", "next/large", None)
    """
    for name in names:
        if name is not None and not (REF_NAME.fullmatch(name) and len(name) <= 200):
            raise PublishError(f"{name!r} is no name for a branch or tag: use letters, digits, dots and hyphens")


@contextmanager
def only_our_words() -> Iterator[None]:
    """Keep the client from saying in words of its own that nothing changed, while the context lasts."""
    logger = logging.getLogger("huggingface_hub.hf_api")

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No files have been modified")

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


@contextmanager
def bounded_waits() -> Iterator[None]:
    """Let no request wait longer than `ANSWER_TIMEOUT_S` for the server, while the context lasts."""
    session = get_session()
    before, session.timeout = session.timeout, ANSWER_TIMEOUT_S
    try:
        yield
    finally:
        session.timeout = before


@contextmanager
def one_line_errors(repo_id: str, endpoint: str, token: str) -> Iterator[None]:
    """Turn whatever the client raises into one line without the token."""
    try:
        yield
    except InputError:
        raise
    except (HTTPError, *NONSENSE, OSError, RuntimeError, ValueError) as error:
        line = " ".join(_explain(error, repo_id, endpoint).split()).replace(token, "<token>")
        raise PublishError(without_user(line)) from None


def _explain(error: BaseException, repo_id: str, endpoint: str) -> str:
    """What went wrong and what to do, from the first cause that the Hub or the network gave."""
    causes = list(_causes(error))
    again = "run the same command again, what was sent stays sent"
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        return "HF_HUB_OFFLINE is set, so nothing can be pushed: unset it"
    answer = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    status = getattr(getattr(answer, "response", None), "status_code", None)
    if status == 401:
        return f"{endpoint} does not accept the token (401): run `hf auth login`, or set HF_TOKEN to a valid one"
    if status == 403:
        return f"this token may not write to {repo_id} (403): use a token with write access, or another owner"
    if status == 404:
        return f"{repo_id} was not found at {endpoint} (404): check its name, the token and HF_ENDPOINT"
    if answer is not None:
        said = getattr(answer, "server_message", None) or str(answer)
        return f"{endpoint} answered {status} for {repo_id}: {said}; {again}"
    if any(isinstance(cause, HTTPError) for cause in causes):
        return f"{endpoint} cannot be reached ({type(causes[-1]).__name__}: {causes[-1]}): check the network; {again}"
    if isinstance(error, NONSENSE):
        return f"{endpoint} answered what no Hub does ({type(error).__name__}: {error}): check HF_ENDPOINT"
    return f"pushing {repo_id} failed ({type(error).__name__}: {error}); {again}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
