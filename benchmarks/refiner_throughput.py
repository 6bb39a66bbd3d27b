"""Refining through an endpoint, against what the endpoint can serve and against a plain loop over `InferenceClient`.

    python benchmarks/refiner_throughput.py --output runs/bench_refiner_throughput

The endpoint is a process of its own that answers after a fixed time and works on a fixed number of requests at a time,
so it serves slots / latency requests a second at most: the floor is latency / slots seconds a caption, and `slots`
times that for a loop that asks one by one. `refiner` is `LLMRefiner` with as many threads as the endpoint has slots;
it also checks every answer and commits it to a fresh cache file. All times are seconds a caption.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import InferenceClient
from timing import compare, run_benchmark

from pemoe.datasets_scripts.refine import EndpointBackend, LLMRefiner, RefineRequest
from pemoe.datasets_scripts.refine.llm.prompts import build_messages, load_prompts

SERVER = Path(__file__).resolve().parents[1] / "tests" / "support" / "scripted_llm.py"
MODEL = "scripted"


@contextmanager
def endpoint(latency_s: float, slots: int) -> Iterator[str]:
    """The scripted endpoint; yields its address."""
    command = [sys.executable, str(SERVER), "--latency-s", str(latency_s), "--slots", str(slots)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def captions(count: int) -> list[str]:
    """Captions that the endpoint knows how to answer."""
    return [
        f"The image shows a long white hall of number {number} with a flat grey roof. On the left is a round pond."
        for number in range(count)
    ]


def refine(base_url: str, texts: list[str], threads: int) -> None:
    """Refine all captions into a fresh cache; every one must get the model's text."""
    requests = [RefineRequest(text, "satellite") for text in texts]
    with tempfile.TemporaryDirectory() as directory:
        backend = EndpointBackend(MODEL, base_url)
        refiner = LLMRefiner(backend, Path(directory) / "answers.sqlite", concurrency=threads)
        refined = refiner.refine_batch(requests)
        refiner.cache.close()
    assert all(one.refiner == "llm" for one in refined)


def ask_one_by_one(base_url: str, texts: list[str]) -> None:
    """The plain loop: no cache, no check, one request at a time."""
    client = InferenceClient(base_url=base_url, api_key="none")
    instruction = load_prompts("v1", 3)["satellite"]
    for text in texts:
        output = client.chat_completion(build_messages(instruction, text), model=MODEL, max_tokens=500)
        assert re.search("white hall", output.choices[0].message.content)


def seconds_each(call: Callable[[], None], count: int) -> float:
    """Seconds of a call, by caption."""
    start_s = time.perf_counter()
    call()
    return (time.perf_counter() - start_s) / count


def measure(smoke: bool, rounds: int, seed: int) -> dict:
    """Interleave the two, one untimed round first; nothing is drawn, so the seed changes nothing."""
    latency_s, slots, refined, looped = (0.02, 4, 16, 4) if smoke else (0.2, 16, 480, 24)
    seconds: dict[str, list[float]] = {"server_limit": [latency_s / slots] * rounds, "refiner": [], "plain_loop": []}
    with endpoint(latency_s, slots) as base_url:
        for round_number in range(rounds + 1):
            taken = {
                "refiner": seconds_each(lambda: refine(base_url, captions(refined), slots), refined),
                "plain_loop": seconds_each(lambda: ask_one_by_one(base_url, captions(looped)), looped),
            }
            if round_number > 0:
                for name, taken_s in taken.items():
                    seconds[name].append(taken_s)
    floors = {"refiner/server_limit": 1.0, "plain_loop/server_limit": float(slots), "refiner/plain_loop": 1 / slots}
    comparison = compare(seconds, floors)
    server = {"latency_s": latency_s, "slots": slots, "limit_per_s": slots / latency_s}
    share = 1 / comparison["ratios"]["refiner/server_limit"]["measured"]
    return {"endpoint": {**server, "refiner_share_of_limit": round(share, 3)}, "seconds_a_caption": comparison}


if __name__ == "__main__":
    run_benchmark("refiner_throughput", "Refining through an endpoint against the endpoint's own limit.", measure)
