"""Invariant: refining touches nothing but `refined_captions` of train rows, in order, in bounded memory, with either
refiner; near-duplicates of an image's captions are merged; the report adds up and its page shows it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import datasets
import numpy as np
import pytest
from refining_worker import numbered_rows
from scripted_llm import Reply, ScriptedLLM, description_of, numbered_caption, sound_reply

from pemoe.common.errors import InputError
from pemoe.datasets_scripts.refine import (
    EndpointBackend,
    LLMRefiner,
    RefineReport,
    RuleRefiner,
    refine_dataset,
    refine_rows,
    write_refine_report,
)
from pemoe.datasets_scripts.refine.report import BIN_CHARS, EXAMPLES, describe_lengths
from pemoe.datasets_scripts.refine.rows import merge_near_duplicates
from pemoe.datasets_scripts.schema import FEATURES


def llm_for(server: ScriptedLLM, path: Path, **options: object) -> LLMRefiner:
    backend = EndpointBackend("m", server.base_url, takes_images=bool(options.pop("takes_images", False)))
    return LLMRefiner(backend, path / "answers.sqlite", backoff_s=0.01, **options)


def test_only_train_rows_change_and_only_in_one_column(tmp_path: Path) -> None:
    given = list(numbered_rows(20))
    with ScriptedLLM(sound_reply) as server:
        for refiner in (None, RuleRefiner(), llm_for(server, tmp_path)):
            rows = list(refine_rows(given, refiner))
            assert [row["image_id"] for row in rows] == [row["image_id"] for row in given]
            assert [row for row in rows if row["split"] == "test"] == [row for row in given if row["split"] == "test"]
            assert [{**row, "refined_captions": []} for row in rows] == given
            assert all(row["refined_captions"] for row in rows if row["split"] == "train")
    asked = {int(re.search(r"number (\d+)", description_of(logged.body))[1]) for logged in server.log}
    assert asked == {number for number in range(60) if number // 3 % 10 != 9}


def test_rows_are_read_no_further_ahead_than_the_chunk(tmp_path: Path) -> None:
    read = []

    def rows() -> Iterator[dict]:
        for row in numbered_rows(60):
            read.append(row)
            yield row

    with ScriptedLLM(sound_reply) as server:
        refiner = llm_for(server, tmp_path, concurrency=2)
        refined = refine_rows(rows(), refiner, chunk=5)
        for number in range(8):
            next(refined)
            assert len(read) <= number + 6
        refined.close()
        assert len(server.log) <= 3 * 14


def test_an_unknown_platform_and_blank_captions_get_no_text() -> None:
    row = next(numbered_rows(1))
    report = RefineReport()
    given = [{**row, "platform": None}, {**row, "captions": [" ", ""]}, {**row, "captions": []}, row]
    rows = list(refine_rows(given, report=report))
    assert [bool(one["refined_captions"]) for one in rows] == [False, False, False, True]
    assert (report.to_dict()["rows"], report.to_dict()["rows_without_texts"]) == (4, 3)


def test_a_refusal_is_no_text_of_a_row_that_has_others() -> None:
    captions = ["Sorry, I cannot help with that.", "A round hall with a dome.", "?"]
    row = {"image": None, "image_id": "a", "split": "train", "platform": "drone"}
    [some], [none] = refine_rows([{**row, "captions": captions}]), refine_rows([{**row, "captions": captions[2:]}])
    assert some["refined_captions"] == ["A round hall with a dome."]
    assert none["refined_captions"] == ["?"]


def test_a_question_takes_its_own_sentence_along_and_no_other() -> None:
    caption = "A red brick building with a flat roof. What could it be used for? A wide car park lies nearby."
    row = {"image": None, "image_id": "a", "split": "train", "platform": "drone", "captions": [caption, "A hall."]}
    [refined] = refine_rows([row])
    found = " ".join(refined["refined_captions"])
    assert "red brick" in found and "car park" in found and "?" not in found


def test_near_duplicates_of_three_captions_are_merged() -> None:
    row = next(numbered_rows(1))
    captions = [
        "A long white hall with two towers stands beside a pond. A road passes the hall and the pond.",
        "The image shows a long white hall with two towers, it stands beside the pond. A road passes hall and pond.",
        "A long white hall with three towers stands beside a pond. [MOF] A road passes the hall and the pond. The gro",
    ]
    (refined,) = refine_rows([{**row, "captions": captions, "platform": "drone"}])
    assert [re.search(r"(two|three) towers", text)[1] for text in refined["refined_captions"]] == ["two", "three"]
    assert merge_near_duplicates([]) == []
    assert merge_near_duplicates(["Pond", "the pond.", "Ponds"]) == ["Pond"]


def dataset(rows: list[dict]) -> datasets.DatasetDict:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    common = {"image": {"bytes": buffer.getvalue(), "path": None}, "regions": [], "latitude_deg": None}
    common |= {"longitude_deg": 1.0, "source": "folder"}
    splits = {name: [row | common for row in rows if row["split"] == name] for name in ("train", "test")}
    return datasets.DatasetDict({k: datasets.Dataset.from_list(v, features=FEATURES) for k, v in splits.items()})


def test_a_dataset_is_refined_by_a_model_that_sees_its_images(tmp_path: Path) -> None:
    given = dataset(list(numbered_rows(10)))
    with ScriptedLLM(sound_reply) as server:
        result = refine_dataset(given, llm_for(server, tmp_path, takes_images=True))
    texts = [f"Long white hall of number {number} with a flat grey roof, next to a round pond." for number in range(3)]
    assert result["train"]["refined_captions"][0] == texts
    assert result["train"].features == FEATURES
    assert result["test"].to_list() == given["test"].to_list()
    assert all(isinstance(logged.body["messages"][1]["content"], list) for logged in server.log)


def test_the_report_adds_up(tmp_path: Path) -> None:
    def script(body: dict, times: int) -> Reply:
        number = int(re.search(r"number (\d+)", description_of(body))[1])
        return Reply("Sure! Hall.") if number % 4 == 0 else sound_reply(body)

    with ScriptedLLM(script) as server:
        refiner = llm_for(server, tmp_path, usd_per_million_in=1.0, usd_per_million_out=4.0)
        report = RefineReport(refiner.budget)
        rows = list(refine_rows(numbered_rows(30), refiner, report=report))
    found = json.loads(json.dumps(report.to_dict()))
    assert (found["rows"], found["captions"], found["captions_refined"]) == (27, 81, 81)
    bad = sum(number % 4 == 0 and number // 3 % 10 != 9 for number in range(90))
    assert found["by_refiner"] == {"llm": 81 - bad, "rule_fallback": bad}
    assert found["rejections"]["chatter"]["count"] == 2 * bad
    assert found["rejections"]["chatter"]["examples"] == [{"text": "Sure! Hall.", "detail": "'Sure!'"}]
    assert (found["calls"], found["retries"], found["cached"]) == (81 + bad, bad, 0) and len(server.log) == 81 + bad
    assert found["cost_usd"] == pytest.approx((found["prompt_tokens"] + 4 * found["completion_tokens"]) / 1e6)
    assert found["prompt_tokens"] == refiner.budget.spent.prompt > 0
    texts = [text for row in rows if row["split"] == "train" for text in row["refined_captions"]]
    assert found["texts"] == found["length_chars"]["after"]["count"] == len(texts)
    assert found["length_chars"]["after"]["mean"] == pytest.approx(np.mean([len(text) for text in texts]))
    assert found["length_chars"]["target"] == 227
    assert len(found["examples"]) == EXAMPLES == len({pair["image_id"] for pair in found["examples"]})


def test_lengths_agree_with_numpy() -> None:
    from collections import Counter

    lengths = np.random.default_rng(1).integers(1, 3000, 999)
    found = describe_lengths(Counter(lengths.tolist()))
    for name, share in (("median", 0.5), ("p10", 0.1), ("p90", 0.9)):
        assert found[name] == np.quantile(lengths, share, method="inverted_cdf")
    bins = [*range(0, BIN_CHARS * len(found["histogram"]["counts"]), BIN_CHARS), 10**9]
    assert found["histogram"]["counts"] == np.histogram(lengths, bins)[0].tolist()
    assert describe_lengths(Counter())["mean"] is None


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_the_page_is_self_contained_and_escapes(tmp_path: Path) -> None:
    rows = [
        {**row, "captions": [*row["captions"], "<script>alert(1)</script> A white tower."]}
        for row in numbered_rows(30)
    ]
    report = RefineReport()
    list(refine_rows(rows, report=report))
    html = write_refine_report(report, tmp_path / "new" / "refine.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.tags.count("svg") == 2 and page.tags.count("section") == EXAMPLES and "script" not in page.tags
    assert not [value for name, value in page.attributes if name in ("src", "href")]
    assert "&lt;script&gt;" in html and "query: 227" in html
    again = write_refine_report(json.loads(json.dumps(report.to_dict())), tmp_path / "again.html")
    assert again.read_text(encoding="utf-8") == html
    empty = write_refine_report(RefineReport(), tmp_path / "empty.html").read_text(encoding="utf-8")
    assert "No row has refined captions" in empty
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot write the page"):
        write_refine_report(report, tmp_path / "taken" / "x.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.html", "empty.html", "new", "taken"]


def test_captions_of_one_row_that_agree_are_asked_once(tmp_path: Path) -> None:
    row = {**next(numbered_rows(1)), "captions": [numbered_caption(5)] * 3}
    with ScriptedLLM(sound_reply) as server:
        (refined,) = refine_rows([row], llm_for(server, tmp_path))
    assert len(server.log) == 1 and len(refined["refined_captions"]) == 1
