"""Invariant: whatever an endpoint does, every caption gets sound texts or the run stops with one line; nothing that
was received is asked for again, the key is never shown, and neither the rate limit nor the budget is passed.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import refining_worker
from scripted_llm import Reply, ScriptedLLM, chat_completion, description_of, numbered_caption, sound_reply, statements

from pemoe.datasets_scripts.refine import BudgetError, EndpointBackend, LLMRefiner, RefineRequest, RuleRefiner
from pemoe.datasets_scripts.refine.llm.backends import _retry_after_s
from pemoe.datasets_scripts.refine.llm.budget import Budget
from pemoe.datasets_scripts.refine.llm.cache import Answer
from pemoe.datasets_scripts.refine.llm.calls import Pacer, Sampling, UnreachableError
from pemoe.datasets_scripts.refine.outcome import Tokens
from pemoe.datasets_scripts.schema import DataError

KEY = "sk-very-secret-0123456789"
SOUND = "Long white hall of number 1 with a flat grey roof, next to a round pond."


def refiner_for(server: ScriptedLLM, path: Path, **options: object) -> LLMRefiner:
    backend = EndpointBackend("tiny-model", server.base_url, api_key=KEY, timeout_s=options.pop("timeout_s", 5.0))
    return LLMRefiner(backend, path / "answers.sqlite", backoff_s=0.01, **options)


def requests_for(count: int) -> list[RefineRequest]:
    return [RefineRequest(numbered_caption(number), "satellite") for number in range(count)]


def answers_in_turn(*replies: Reply) -> Callable[[dict, int], Reply]:
    """Replies by the order in which requests come, whatever they ask; the last one stays."""
    left = list(replies)
    lock = threading.Lock()

    def script(body: dict, times: int) -> Reply:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return script


def test_the_request_is_what_an_openai_server_expects(tmp_path: Path) -> None:
    with ScriptedLLM(sound_reply) as server:
        refiner = refiner_for(server, tmp_path, temperature=0.2, seed=7)
        assert refiner.refine(numbered_caption(1), "satellite") == [SOUND]
    (logged,) = server.log
    body = logged.body
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("tiny-model", 0.2, 7, 500)
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["statements"]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "straight from above" in body["messages"][0]["content"]
    assert logged.headers["authorization"] == f"Bearer {KEY}"


def test_an_image_goes_along_when_the_backend_takes_images(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    picture = (tmp_path / "a.png").read_bytes()
    with ScriptedLLM(sound_reply) as server:
        backend = EndpointBackend("tiny-model", server.base_url, takes_images=True)
        refiner = LLMRefiner(backend, tmp_path / "answers.sqlite")
        assert refiner.refine(numbered_caption(1), "satellite", picture) == [SOUND]
        assert refiner.refine(numbered_caption(1), "satellite", picture + b"\0") == [SOUND]
        assert refiner.refine(numbered_caption(1), "satellite") == [SOUND]
        broken = refiner.refine_batch([RefineRequest(numbered_caption(1), "satellite", b"no picture")])[0]
        blind = refiner_for(server, tmp_path)
        blind.refine(numbered_caption(1), "satellite", picture)
    content = server.log[0].body["messages"][1]["content"]
    assert content[0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert [type(logged.body["messages"][1]["content"]) for logged in server.log] == [list, list, str]
    assert broken.refiner == "rule_fallback" and [one.reason for one in broken.rejections] == ["unreadable_image"]
    assert server.log[0].headers["authorization"] != f"Bearer {KEY}"


def test_without_a_key_no_token_of_the_user_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_my_own_token")
    with ScriptedLLM(sound_reply) as server:
        LLMRefiner(EndpointBackend("m", server.base_url), tmp_path / "a.sqlite").refine(numbered_caption(1), "drone")
    assert "hf_my_own_token" not in json.dumps(server.log[0].headers)


def test_what_is_in_the_cache_is_not_asked_again(tmp_path: Path) -> None:
    requests = requests_for(6)
    with ScriptedLLM(sound_reply) as server:
        refiner = refiner_for(server, tmp_path)
        first = refiner.refine_batch(requests + requests)
        again = refiner_for(server, tmp_path).refine_batch(requests)
        assert len(server.log) == 6
        refiner_for(server, tmp_path, temperature=0.9).refine_batch(requests[:1])
        other = LLMRefiner(EndpointBackend("other", server.base_url), tmp_path / "answers.sqlite")
        other.refine_batch(requests[:1])
        assert len(server.log) == 8
    assert [one.texts for one in first] == [one.texts for one in again + again]
    assert sum(one.calls for one in first) == 6 and sum(one.cached for one in again) == 6
    assert all(one.refiner == "llm" and one.tokens.total == 0 for one in again)


def test_rejected_answers_are_kept_with_reasons_retried_and_then_left_to_the_rules(tmp_path: Path) -> None:
    on_the_left = statements("Long white hall of number 1 with a flat grey roof, a round pond on its left.")
    with ScriptedLLM(answers_in_turn(Reply("Sure! A hall."), Reply(on_the_left))) as server:
        refiner = refiner_for(server, tmp_path)
        (refined,) = refiner.refine_batch(requests_for(2)[1:])
        assert refiner.refine_batch(requests_for(2)[1:])[0].texts == refined.texts
    assert refined.texts == RuleRefiner().refine(numbered_caption(1), "satellite")
    assert (refined.refiner, refined.calls, refined.retries) == ("rule_fallback", 2, 1)
    assert [rejection.reason for rejection in refined.rejections] == ["chatter", "direction"]
    assert len(server.log) == 2
    assert [logged.body["seed"] for logged in server.log] == [0, 1]
    assert "could not be used (there is chatter" in description_of(server.log[1].body)
    stored = sqlite3.connect(tmp_path / "answers.sqlite").execute("SELECT answer, rejections FROM answers").fetchall()
    assert [answer for answer, _ in stored] == ["Sure! A hall.", on_the_left]
    assert [json.loads(reasons)[0]["reason"] for _, reasons in stored] == ["chatter", "direction"]


def test_a_second_answer_can_save_a_caption(tmp_path: Path) -> None:
    with ScriptedLLM(answers_in_turn(Reply('{"statements": '), Reply(statements(SOUND)))) as server:
        (refined,) = refiner_for(server, tmp_path).refine_batch(requests_for(2)[1:])
    assert (refined.texts, refined.refiner, refined.calls, refined.retries) == ([SOUND], "llm", 2, 1)


@pytest.mark.parametrize(
    "fault",
    [
        Reply(status=500),
        Reply(status=503, text="<html>busy</html>"),
        Reply(status=429),
        Reply(fault="reset"),
        Reply(fault="cut", text="x" * 4000),
        Reply(delay_s=1.0),
        Reply(body=b"<html>a proxy</html>"),
        Reply(body=b"{}"),
    ],
    ids=["500", "503", "429", "reset", "cut", "timeout", "html", "empty"],
)
def test_faults_that_pass_are_ridden_out(tmp_path: Path, fault: Reply) -> None:
    with ScriptedLLM(answers_in_turn(fault, fault, Reply(statements(SOUND)))) as server:
        (refined,) = refiner_for(server, tmp_path, timeout_s=0.5 if fault.delay_s else 5.0).refine_batch(
            requests_for(2)[1:]
        )
    assert (refined.texts, refined.refiner, refined.calls, refined.retries) == ([SOUND], "llm", 1, 2)
    assert len(server.log) == 3


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    script = answers_in_turn(Reply(status=429, headers={"Retry-After": "0.4"}), Reply(statements(SOUND)))
    with ScriptedLLM(script) as server:
        (refined,) = refiner_for(server, tmp_path).refine_batch(requests_for(2)[1:])
    assert (refined.refiner, refined.retries) == ("llm", 1)
    assert server.log[1].started_s - server.log[0].started_s >= 0.4


def test_a_pause_holds_back_every_thread() -> None:
    pacer, ended_s = Pacer(None, threading.Event()), []
    begin_s = time.monotonic()
    pacer.pause(0.3)
    threads = [threading.Thread(target=lambda: (pacer.wait(), ended_s.append(time.monotonic()))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended_s) == 5 and min(ended_s) - begin_s >= 0.3


def test_retry_after_headers() -> None:
    assert _retry_after_s("0.5") == 0.5 and _retry_after_s("-3") == 0.0
    assert _retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert _retry_after_s("inf") == _retry_after_s("1e300") == 86_400.0 and _retry_after_s("nan") is None
    assert 3000 < _retry_after_s(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))) <= 3600


def test_the_pace_keeps_within_the_servers_limit(tmp_path: Path) -> None:
    limit = {"limit": (20.0, 4), "retry_after_s": 0.05}  # 20 a second, 3 of them early
    with ScriptedLLM(sound_reply, **limit) as paced:
        refiner = refiner_for(paced, tmp_path / "paced", requests_per_minute=20 * 60)
        refined = refiner.refine_batch(requests_for(20))
    with ScriptedLLM(sound_reply, **limit) as hurried:
        refiner_for(hurried, tmp_path / "hurried", retries=100).refine_batch(
            requests_for(20)
        )  # some are unlucky often
    assert paced.violations == 0 and len(paced.log) == 20 and hurried.violations > 0
    assert [one.refiner for one in refined] == ["llm"] * 20
    starts_s = [logged.started_s for logged in paced.log]
    assert starts_s[-1] - starts_s[0] >= 19 / 20 * 0.9


@pytest.mark.parametrize(
    ("status", "advice"), [(400, "model's name"), (401, "API key"), (403, "right"), (404, "base_url")]
)
def test_what_another_try_cannot_mend_stops_at_once_in_one_line(
    tmp_path: Path, status: int, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reported = json.dumps({"error": {"message": f"bad key {KEY}\nfor you", "code": status}})
    with ScriptedLLM(lambda body, times: Reply(reported, status, delay_s=0.05)) as server:
        refiner = refiner_for(server, tmp_path, concurrency=3)
        with pytest.raises(DataError) as error:
            refiner.refine_batch(requests_for(40))
        where = server.base_url
    message = str(error.value)
    assert f"{where}: HTTP {status}" in message and "'tiny-model'" in message and advice in message
    assert "bad key ***" in message and "\n" not in message
    assert len(server.log) <= 3
    assert KEY not in message + repr(refiner) + caplog.text and error.value.__cause__ is None


def test_an_endpoint_that_never_answers_is_reported_in_one_line(tmp_path: Path) -> None:
    with ScriptedLLM(sound_reply) as server:
        gone = EndpointBackend("m", server.base_url, api_key=KEY)
    reported = f"{gone.where} does not answer (connection refused); start the server or correct --base-url"
    for retries in (0, 5):
        refiner = LLMRefiner(gone, tmp_path / "a.sqlite", retries=retries, backoff_s=60.0)
        start_s = time.monotonic()
        with pytest.raises(DataError) as error:
            refiner.refine_batch(requests_for(20))
        assert str(error.value) == reported and time.monotonic() - start_s < 20
    patient = LLMRefiner(gone, tmp_path / "a.sqlite", retries=1, backoff_s=0.01, failures_to_stop=None)
    assert [one.refiner for one in patient.refine_batch(requests_for(3))] == ["rule_fallback"] * 3


class LeavingBackend:
    """Answers so many questions, then takes no connection any more."""

    name, takes_images = "leaving", False

    def __init__(self, answers: int) -> None:
        self.answers, self.asked = answers, 0

    def ask(self, messages: list[dict], sampling: Sampling) -> Answer:
        self.asked += 1
        if self.asked > self.answers:
            raise UnreachableError("http://host/v1 does not answer (connection refused); start the server")
        return Answer(statements(SOUND), Tokens(1, 1))


def test_a_server_that_goes_away_in_a_run_is_waited_for(tmp_path: Path) -> None:
    backend = LeavingBackend(2)
    refiner = LLMRefiner(backend, tmp_path / "a.sqlite", concurrency=1, retries=3, backoff_s=0.01)
    with pytest.raises(DataError, match=r"no answer after 4 tries, the last one: http.*\(connection refused\)"):
        refiner.refine_batch(requests_for(20))
    assert backend.asked == 2 + 5 * 4 and len(refiner.cache) == 2
    backend.answers = 100
    assert [one.refiner for one in refiner.refine_batch(requests_for(20))] == ["llm"] * 20


def test_one_try_is_reported_as_one(tmp_path: Path) -> None:
    reported = "no answer after 1 try, the last one: HTTP 500"
    with ScriptedLLM(lambda body, times: Reply(status=500)) as server, pytest.raises(DataError, match=reported):
        refiner_for(server, tmp_path, retries=0).refine_batch(requests_for(3))


def test_one_caption_without_an_answer_is_left_to_the_rules_and_asked_again_next_time(tmp_path: Path) -> None:
    def script(body: dict, times: int) -> Reply:
        return Reply(status=500) if " 3 " in description_of(body) else sound_reply(body)

    requests = requests_for(6)
    with ScriptedLLM(script) as server:
        refined = refiner_for(server, tmp_path, concurrency=1, retries=1).refine_batch(requests)
    assert [one.refiner for one in refined] == ["llm"] * 3 + ["rule_fallback"] + ["llm"] * 2
    assert [rejection.reason for rejection in refined[3].rejections] == ["no_answer"] and len(server.log) == 7
    with ScriptedLLM(sound_reply) as server:
        refined = refiner_for(server, tmp_path).refine_batch(requests)
    assert [one.refiner for one in refined] == ["llm"] * 6 and len(server.log) == 1


def test_an_endpoint_that_goes_down_stops_the_run(tmp_path: Path) -> None:
    script = answers_in_turn(*[Reply(statements(SOUND))] * 4, Reply(status=502))
    with ScriptedLLM(script) as server:
        refiner = refiner_for(server, tmp_path, concurrency=1, retries=1)
        with pytest.raises(DataError, match="no answer after 2 tries, the last one: HTTP 502"):
            refiner.refine_batch(requests_for(40))
    assert len(server.log) == 4 + 5 * 2 and len(refiner.cache) == 4


def test_a_resumed_run_is_not_stopped_by_its_last_caption(tmp_path: Path) -> None:
    with ScriptedLLM(sound_reply) as server:
        refiner_for(server, tmp_path).refine_batch(requests_for(6))
    with ScriptedLLM(lambda body, times: Reply(status=500)) as server:
        last = refiner_for(server, tmp_path, retries=1).refine_batch(requests_for(7))[-1]
        with pytest.raises(DataError, match="no answer after 2 tries"):
            refiner_for(server, tmp_path, retries=1).refine_batch(requests_for(20))
        refined = refiner_for(server, tmp_path, retries=1, failures_to_stop=None).refine_batch(requests_for(20))
    assert last.refiner == "rule_fallback"
    assert [one.refiner for one in refined] == ["llm"] * 6 + ["rule_fallback"] * 14


def test_half_a_surrogate_pair_breaks_nothing(tmp_path: Path) -> None:
    halves = [json.dumps({"statements": ["White hall \ud83c by a pond."]}), chr(0xD83C) + " no JSON"]
    for half in halves:
        with ScriptedLLM(lambda body, times, text=half: Reply(text)) as server:
            refiner = refiner_for(server, tmp_path / str(len(half)))
            (refined,) = refiner.refine_batch([RefineRequest("A white hall \ud83c by a pond.", "drone")])
        assert refined.refiner == "rule_fallback" and len(server.log) == 2 == len(refined.rejections)
        assert "\ufffd" in refined.rejections[0].text or "?" in refined.rejections[0].text


def test_the_budget_stops_the_run_keeps_what_came_and_says_how_to_go_on(tmp_path: Path) -> None:
    requests = requests_for(40)
    prices = {"usd_per_million_in": 100.0, "usd_per_million_out": 200.0}
    for caps in ({"budget_tokens": 6000}, {"budget_usd": 0.6, **prices}):
        path = tmp_path / next(iter(caps))
        with ScriptedLLM(sound_reply) as server:
            refiner = refiner_for(server, path, concurrency=4, **caps)
            with pytest.raises(BudgetError) as error:
                refiner.refine_batch(requests)
            sent = len(server.log)
            assert 0 < sent < 40 and len(refiner.cache) == sent == sum(logged.delivered for logged in server.log)
            spent = refiner.budget.spent.total
            assert spent <= caps.get("budget_tokens", np.inf)
            assert (refiner.budget.usd(refiner.budget.spent) or 0) <= caps.get("budget_usd", np.inf)
            reported = str(error.value)
            assert "larger budget" in reported and f"all {sent} answers are kept" in reported and "\n" not in reported
            refined = refiner_for(server, path).refine_batch(requests)
        assert len(server.log) == 40 and all(one.refiner == "llm" for one in refined)


def test_the_budget_holds_where_the_server_counts_more_than_was_estimated(tmp_path: Path) -> None:
    def dear(body: dict, times: int) -> Reply:
        answer = json.loads(chat_completion(body, sound_reply(body).text))
        answer["usage"] |= {"prompt_tokens": 5000, "total_tokens": 5100}
        return Reply(body=json.dumps(answer).encode(), delay_s=0.02)

    with ScriptedLLM(dear) as server:
        refiner = refiner_for(server, tmp_path, concurrency=8, budget_tokens=12_000)
        with pytest.raises(BudgetError):
            refiner.refine_batch(requests_for(20))
        assert len(server.log) == 2 and refiner.budget.spent.total <= 12_000


def test_a_dearer_answer_raises_what_is_reserved_for_those_on_their_way() -> None:
    budget, estimate = Budget(tokens=10_000), Tokens(1000, 0)
    budget.reserve(estimate)
    budget.settle(estimate, Tokens(1000, 0))
    for _ in range(3):
        budget.reserve(estimate)
    budget.settle(estimate, Tokens(3000, 0))  # the two others may cost as much: 1000 + 3 * 3000 are spoken for
    with ThreadPoolExecutor(1) as pool:
        another = pool.submit(budget.reserve, Tokens(1, 0))
        with pytest.raises(TimeoutError):
            another.result(timeout=0.2)
        for _ in range(2):
            budget.settle(estimate, Tokens(3000, 0))
        with pytest.raises(BudgetError, match="10000 tokens of 10000"):
            another.result(timeout=10)


def test_the_estimate_sends_nothing_and_agrees_with_the_cache(tmp_path: Path) -> None:
    requests = requests_for(10)
    with ScriptedLLM(sound_reply) as server:
        refiner = refiner_for(server, tmp_path, usd_per_million_in=1.0, usd_per_million_out=2.0)
        before = refiner.estimate(requests + requests)
        assert (server.log, len(refiner.cache)) == ([], 0)
        assert (before.requests, before.calls, before.cached) == (20, 10, 10)
        assert before.cost_usd == pytest.approx((before.prompt_tokens + 2 * before.completion_tokens) / 1e6)
        refined = refiner.refine_batch(requests[:4])
        after = refiner.estimate(requests)
        assert (after.calls, after.cached, len(server.log)) == (6, 4, 4)
    prompt = sum(one.tokens.prompt for one in refined) / 4
    assert after.prompt_tokens / 6 == pytest.approx(prompt, rel=0.25)
    assert after.completion_tokens == 6 * refiner.cache.mean_tokens("tiny-model", "v1").completion
    assert refiner_for(server, tmp_path).estimate(requests).cost_usd is None


def test_results_come_in_order(tmp_path: Path) -> None:
    def script(body: dict, times: int) -> Reply:
        reply = sound_reply(body)
        reply.delay_s = 0.1 if " 0 " in description_of(body) else 0.0
        return reply

    with ScriptedLLM(script) as server:
        refined = refiner_for(server, tmp_path).refine_batch(requests_for(12))
    assert [f"number {number} " in one.texts[0] for number, one in enumerate(refined)] == [True] * 12


def test_two_refiners_share_a_cache_at_the_same_time(tmp_path: Path) -> None:
    requests, results = requests_for(30), {}
    with ScriptedLLM(sound_reply) as server:

        def run(name: str) -> None:
            results[name] = [one.texts for one in refiner_for(server, tmp_path).refine_batch(requests)]

        threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results["a"] == results["b"] and len(results["a"]) == 30
        sent = len(server.log)
        refiner_for(server, tmp_path).refine_batch(requests)
        assert len(server.log) == sent


def test_processes_that_start_together_share_a_new_cache(tmp_path: Path) -> None:
    with refining_worker.forkserver().Pool(6) as pool:
        for number in range(20):
            assert (
                pool.map(refining_worker.open_cache, [str(tmp_path / f"{number}.sqlite")] * 6, chunksize=1) == [0] * 6
            )


def test_a_damaged_cache_is_reported_in_one_line(tmp_path: Path) -> None:
    backend = EndpointBackend("m", "http://127.0.0.1:9")
    path = tmp_path / "answers.sqlite"
    for content in (b"this is no database, whatever its name says" * 99, b""):
        path.write_bytes(content)
        if content:
            with pytest.raises(DataError, match=r"no intact answer cache .*move it away") as error:
                LLMRefiner(backend, path)
            assert "\n" not in str(error.value) and path.read_bytes() == content
        else:
            LLMRefiner(backend, path).cache.close()
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE notes (text)")
    other.commit()
    with pytest.raises(DataError, match="no intact answer cache"):
        LLMRefiner(backend, tmp_path / "other.sqlite")
    with pytest.raises(DataError, match="cannot"):
        LLMRefiner(backend, tmp_path)
    with ScriptedLLM(sound_reply) as server:
        refiner = refiner_for(server, tmp_path)
        refiner.refine_batch(requests_for(60))
        refiner.cache.close()
    whole = bytearray(path.read_bytes())
    whole[4096:] = np.random.default_rng(0).bytes(len(whole) - 4096)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"answers.sqlite: is no intact answer cache"):
        LLMRefiner(backend, path)


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ({"concurrency": 0}, "concurrency is 0"),
        ({"answers": 0}, "answers is 0"),
        ({"requests_per_minute": 0}, "requests_per_minute is 0"),
        ({"budget_usd": 1.0}, "price per million"),
        ({"budget_tokens": -1}, "negative"),
        ({"retries": -1}, "negative"),
        ({"prompt_version": "v0"}, "no prompt version"),
    ],
)
def test_bad_arguments(tmp_path: Path, options: dict, reported: str) -> None:
    with pytest.raises(DataError, match=reported):
        LLMRefiner(EndpointBackend("m", "http://127.0.0.1:9"), tmp_path / "a.sqlite", **options)


def test_bad_backends_and_requests(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no address"):
        EndpointBackend("m", "localhost:8000")
    with pytest.raises(DataError, match="response_format"):
        EndpointBackend("m", response_format="xml")
    assert EndpointBackend("m", "http://me:secret@host:1/v1?key=secret").where == "http://host:1/v1"
    refiner = LLMRefiner(EndpointBackend("m", "http://127.0.0.1:9"), tmp_path / "a.sqlite")
    with pytest.raises(DataError, match="unknown platform 'boat'"):
        refiner.refine("A pond.", "boat")
    with pytest.raises(DataError, match="is empty"):
        refiner.refine(" ", "drone")


def test_offline_mode_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        LLMRefiner(EndpointBackend("m", "http://127.0.0.1:9"), tmp_path / "a.sqlite").refine("A pond.", "drone")
