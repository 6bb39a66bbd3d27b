"""A refinement to be killed: rows of numbered captions through an endpoint into a JSONL file."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
from scripted_llm import Reply, description_of, numbered_caption, sound_reply

from pemoe.datasets_scripts.refine import EndpointBackend, LLMRefiner, RefineReport, refine_rows
from pemoe.datasets_scripts.refine.llm.cache import AnswerCache

CONCURRENCY = 4
CAPTIONS_PER_ROW = 3
DELAY_S = 0.03


def numbered_rows(count: int) -> Iterator[dict]:
    """Train rows of three captions each; every tenth one is a test row."""
    for row in range(count):
        numbers = range(CAPTIONS_PER_ROW * row, CAPTIONS_PER_ROW * (row + 1))
        yield {
            "image": None,
            "image_id": f"{row:04d}/image-01.jpeg",
            "place_id": f"{row:04d}",
            "platform": "satellite",
            "captions": [numbered_caption(number) for number in numbers],
            "refined_captions": [],
            "split": "test" if row % 10 == 9 else "train",
        }


def wayward_script(body: dict, times: int) -> Reply:
    """Sound answers, but some first answers are chatter, some captions get nothing else, and some calls fail once."""
    number = int(re.search(r"number (\d+) ", description_of(body))[1])
    reply = sound_reply(body, times)
    if number % 10 == 3 or (number % 7 == 0 and body["seed"] == 0):
        reply = Reply(f"Sure! Number {number} is a hall, draw {body['seed']}.")
    if number % 11 == 5 and times == 0:
        reply = Reply(status=503)
    reply.delay_s = DELAY_S
    return reply


def forkserver() -> multiprocessing.context.BaseContext:
    """Processes of their own that need not import everything again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pemoe.datasets_scripts.refine", "huggingface_hub.inference._client"])
    return context


def open_cache(path: str) -> int:
    """Open a cache file, perhaps as the first of several processes; the number of its answers."""
    return len(AnswerCache(path))


def refine_to(base_url: str, cache: str, output: str, count: int) -> None:
    """Refine `count` rows; `output` appears when all is done."""
    huggingface_hub.constants.HF_HUB_OFFLINE = False  # the endpoint is on this machine
    refiner = LLMRefiner(EndpointBackend("m", base_url), cache, concurrency=CONCURRENCY, backoff_s=0.02)
    report = RefineReport()
    rows = list(refine_rows(numbered_rows(count), refiner, report=report))
    part = Path(output + ".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path(output + ".report").write_text(json.dumps(report.to_dict()), encoding="utf-8")
    os.replace(part, output)
