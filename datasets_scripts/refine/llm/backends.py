"""Where answers come from: an OpenAI-compatible endpoint, or a transformers model on this machine."""

from __future__ import annotations

import email.utils
import importlib
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from pemoe.datasets_scripts.refine.llm.budget import estimate_tokens
from pemoe.datasets_scripts.refine.llm.cache import Answer
from pemoe.datasets_scripts.refine.llm.calls import FaultError, Sampling, UnreachableError
from pemoe.datasets_scripts.refine.llm.prompts import ANSWER_FORMAT
from pemoe.datasets_scripts.refine.outcome import Tokens
from pemoe.datasets_scripts.schema import DataError

_FAULTS = frozenset({408, 409, 425, 429})  # and all from 500 on: these may pass
_ADVICE = {
    400: "check the model's name, and response_format: not every server knows it",
    401: "check the API key",
    403: "the API key has no right to this model",
    404: "check base_url and the model's name",
}
_DAY_S = 86_400.0  # no server means a longer wait
QUOTED_CHARS = 160  # of another's words in a message


class _Verbatim(dict):
    """A dict that `InferenceClient` does not rewrite to a form that only text-generation-inference knows."""

    def get(self, key: str, default: Any = None) -> Any:
        return default


_FORMATS = {None: None, "json_object": {"type": "json_object"}, "json_schema": _Verbatim(ANSWER_FORMAT)}


@dataclass
class EndpointBackend:
    """Asks any OpenAI-compatible chat endpoint through `huggingface_hub.InferenceClient`.

    Args:
        name: the model, as the server calls it.
        base_url: of the server, with or without `/v1`; None for Hugging Face's Inference Providers.
        api_key: goes into the request's header and nowhere else. None: no key for a `base_url`, the key of
            `hf auth login` for Inference Providers.
        takes_images: whether to send the picture along.
        timeout_s: for one call.
        response_format: "json_schema" (default) or "json_object" asks for structured output; None does not ask.

    Raises:
        DataError: `base_url` is no http(s) address, or `response_format` is unknown.

    Example:
        >>> EndpointBackend("Qwen/Qwen2.5-VL-7B-Instruct", "http://127.0.0.1:8000/v1").where
        'http://127.0.0.1:8000/v1'
    """

    name: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    takes_images: bool = False
    timeout_s: float = 120.0
    response_format: str | None = "json_schema"

    def __post_init__(self) -> None:
        if self.base_url is not None and urlsplit(self.base_url).scheme not in ("http", "https"):
            shown = self.base_url.rpartition("@")[2].partition("?")[0]  # no password, no key
            raise DataError(f"base_url {shown!r} is no address; give one like http://127.0.0.1:8000/v1")
        if self.response_format not in _FORMATS:
            raise DataError(f"response_format is {self.response_format!r}; use json_schema, json_object or None")

    @property
    def where(self) -> str:
        """The endpoint for messages: without user, password and query."""
        if self.base_url is None:
            return "Hugging Face Inference Providers"
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @cached_property
    def _client(self) -> Any:
        from huggingface_hub import InferenceClient

        # without a key of its own the client would send the user's Hugging Face token to whatever server this is
        key = self.api_key or (None if self.base_url is None else "none")
        return InferenceClient(base_url=self.base_url, api_key=key, timeout=self.timeout_s)

    def ask(self, messages: Sequence[dict], sampling: Sampling) -> Answer:
        """Put one question.

        Raises:
            UnreachableError: no connection can be made.
            FaultError: 408, 409, 425, 429, 5xx, a timeout, a lost connection, an answer that cannot be read.
            DataError: any other status; one line without the key.
        """
        options = {"model": self.name, "response_format": _FORMATS[self.response_format], **asdict(sampling)}
        try:
            output = self._client.chat_completion(list(messages), **options)
            text = (output.choices[0].message.content or "").encode("utf-8", "replace").decode("utf-8")
            usage = output.usage
        except Exception as error:
            raise self._translated(error) from None  # the cause holds the request, and that the key
        if usage is None:
            sent = "".join(str(message["content"]) for message in messages if isinstance(message["content"], str))
            return Answer(text, Tokens(estimate_tokens(sent), estimate_tokens(text)))
        return Answer(text, Tokens(usage.prompt_tokens or 0, usage.completion_tokens or 0))

    def _translated(self, error: Exception) -> Exception:
        """What went wrong, as a fault that may pass or an error that stays."""
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

        client = importlib.import_module(HTTPError.__module__)  # httpx, or httpx2 with later versions of the Hub's
        if isinstance(error, OfflineModeIsEnabled):
            line = "huggingface_hub calls no endpoint, a local one neither, while HF_HUB_OFFLINE is set"
            return DataError(f"{self.where}: {line}; unset it for this run")
        if isinstance(error, HfHubHTTPError):
            return self._refused(error.response)
        if isinstance(error, (TimeoutError, client.TimeoutException)):
            return FaultError(f"no answer within {self.timeout_s:g} s")
        if isinstance(error, client.ConnectError):
            advice = "start the server or correct --base-url" if self.base_url else "see that the network is up"
            why = str(error).rpartition("] ")[2].lower()[:QUOTED_CHARS]  # "[Errno 111] Connection refused"
            return UnreachableError(f"{self.where} does not answer ({why}); {advice}")
        if isinstance(error, (HTTPError, OSError)):
            return FaultError(f"connection lost ({type(error).__name__}) to {self.where}")
        if isinstance(error, (ValueError, KeyError, TypeError, AttributeError, IndexError)):
            return FaultError(f"an answer that cannot be read ({type(error).__name__})")
        return error

    def _refused(self, response: Any) -> Exception:
        """What a status other than 200 means."""
        status = response.status_code
        if status in _FAULTS or status >= 500:
            return FaultError(f"HTTP {status}", _retry_after_s(response.headers.get("Retry-After")))
        words = " ".join(response.text[: 10 * QUOTED_CHARS].split())
        for secret in filter(None, (self.api_key, urlsplit(self.base_url or "").password)):
            words = words.replace(secret, "***")
        advice = _ADVICE.get(status, "see what the server says")
        quoted = f" ({words[:QUOTED_CHARS]})" if words else ""
        return DataError(f"{self.where}: HTTP {status} for model {self.name!r}: {advice}{quoted}")


def _retry_after_s(header: str | None) -> float | None:
    """Seconds of a `Retry-After` header, which holds seconds or a date, a day at most; None where it tells none."""
    try:
        wait_s = float(header or "nan")
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return None if math.isnan(wait_s) else min(max(wait_s, 0.0), _DAY_S)


@dataclass
class LocalBackend:
    """Runs a chat model of transformers on this machine, one question at a time; loaded at the first one.

    The likeliest words are taken, whatever the temperature, so that a run can be repeated.

    Args:
        name: directory or Hub repository of the model; needs a chat template.
        takes_images: load it as an image-text-to-text model and show it the picture.
        device: where it runs, as transformers names it.
    """

    name: str
    takes_images: bool = False
    device: str = "cpu"
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        """The processor (or tokenizer) and the model."""
        import transformers

        loaders = (transformers.AutoTokenizer, transformers.AutoModelForCausalLM)
        if self.takes_images:
            loaders = (transformers.AutoProcessor, transformers.AutoModelForImageTextToText)
        try:
            processor = loaders[0].from_pretrained(self.name)
            model = loaders[1].from_pretrained(self.name, dtype="auto").to(self.device).eval()
        except (OSError, ValueError, ImportError) as error:
            why = str(error).strip().splitlines()[0][:QUOTED_CHARS]
            raise DataError(f"{self.name}: cannot be loaded as a local model ({why}); name a chat model") from error
        if processor.chat_template is None:
            raise DataError(f"{self.name}: has no chat template; use an instruction-tuned model")
        return processor, model

    def ask(self, messages: Sequence[dict], sampling: Sampling) -> Answer:
        """Put one question; the first one raises `DataError` when the model cannot be loaded or has no template."""
        with self._lock:
            processor, model = self._parts
            given = _in_parts(messages) if self.takes_images else list(messages)
            options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
            inputs = processor.apply_chat_template(given, **options).to(model.device)
            output = model.generate(**inputs, max_new_tokens=sampling.max_tokens, do_sample=False)
            prompt = inputs["input_ids"].shape[1]
            tokenizer = getattr(processor, "tokenizer", processor)
            text = tokenizer.decode(output[0, prompt:], skip_special_tokens=True)
        return Answer(text, Tokens(prompt, int(output.shape[1]) - prompt))


def _in_parts(messages: Sequence[dict]) -> list[dict]:
    """The messages with every content a list, which templates of models that see pictures expect."""
    contents = [message["content"] for message in messages]
    parts = [[{"type": "text", "text": one}] if isinstance(one, str) else one for one in contents]
    return [{**message, "content": part} for message, part in zip(messages, parts, strict=True)]
