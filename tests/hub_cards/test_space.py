"""Invariant: the Space's page ranks as brute force over the model's own vectors does, for the gallery and for uploaded
pictures, by `AutoModel` alone: without the package and without reaching the network; what it cannot do is one line."""

from __future__ import annotations

import html
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from huggingface_hub import SpaceCard
from PIL import Image
from source_tree import ROOT
from tiny_data import build_processor
from tiny_models import build_tiny_model

from pemoe.common.errors import InputError
from pemoe.hub_cards.space_bundle import bundle_space
from pemoe.modeling_pemoe import PeMoEModel
from pemoe.retrieval.locating.queries import Statement

QUERY = "red roof seen from drone."
# refuses the package and records every address that the app asks for
GUARDED = """
import runpy, sys
def guard(event, arguments):
    if event == "import" and arguments[0].split(".")[0] == "pemoe":
        raise ImportError("pemoe is not installed here")
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        open(sys.argv[1], "a").write(f"{arguments[1][0]}\\n")
    if event == "socket.getaddrinfo":
        open(sys.argv[1], "a").write(f"{arguments[0]}\\n")
sys.addaudithook(guard)
runpy.run_path("app.py", run_name="__main__")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_bundle(directory: Path, files: dict[str, bytes]) -> Path:
    directory.mkdir()
    for path, content in files.items():
        (directory / path).write_bytes(content)
    return directory


def start(space: Path, home: Path) -> tuple[subprocess.Popen, str]:
    port = free_port()
    env = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "GRADIO_ANALYTICS_ENABLED": "0",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(home / "gradio"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home),
    }
    command = [sys.executable, "-c", GUARDED, str(home.with_name("addresses.txt"))]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=space, env=env, **pipes), f"http://127.0.0.1:{port}"


def wait_for(process: subprocess.Popen, address: str) -> None:
    deadline_s = time.monotonic() + 90
    while time.monotonic() < deadline_s:
        assert process.poll() is None, process.stderr.read()
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"{address} does not answer")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("space_model")
    build_tiny_model().save_pretrained(directory)
    build_processor().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def gallery_dir(built_once: Path) -> Path:
    """The rendered campus, five places."""
    return built_once


@pytest.fixture(scope="module")
def page(
    model_dir: Path, gallery_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Client, Path]]:
    """A client of the running app, and the file of addresses that the app reached for."""
    root = tmp_path_factory.mktemp("space")
    space = write_bundle(root / "space", bundle_space(str(model_dir), str(gallery_dir)))
    process, address = start(space, root / "home")
    try:
        wait_for(process, address)
        yield Client(address, verbose=False), root / "addresses.txt"
    finally:
        process.kill()
        process.wait(timeout=20)


def brute_force(model_dir: Path, pictures: list[Image.Image], places: list[str]) -> list[tuple[str, float]]:
    """Every place with its best score, best first."""
    model, processor = PeMoEModel.from_pretrained(model_dir).eval(), build_processor()
    scores = model.encode_images(pictures, processor) @ model.encode_text([QUERY], processor)[0]
    best = {place: max(score for score, one in zip(scores, places, strict=True) if one == place) for place in places}
    return sorted(best.items(), key=lambda hit: -hit[1])


def first_of_places(gallery_dir: Path) -> list[dict]:
    """The first test picture of every place and platform."""
    names = ("satellite", "drone", "ground")
    rows = [row for name in names for row in datasets.load_dataset(str(gallery_dir), name, split="test")]
    return list({(row["place_id"], row["platform"]): row for row in reversed(rows)}.values())


def search(
    client: Client, sentence: str, *area: str, platforms: tuple[str, ...] = (), top: int = 20
) -> tuple[str, str]:
    """What the page says is wrong, and the answer that it shows."""
    said, shown, *_ = client.predict(sentence, list(platforms), top, *(area or [""] * 7), api_name="/search")
    return said, shown if isinstance(shown, str) else ""


def names_of(shown: str) -> list[str]:
    return [html.unescape(name) for name in re.findall(r"<h3><span>\d+\. (.*?)</span>", shown)]


def test_places_are_ranked_as_by_brute_force(page, model_dir: Path, gallery_dir: Path) -> None:
    client, _ = page
    rows = first_of_places(gallery_dir)
    expected = brute_force(model_dir, [row["image"] for row in rows], [row["place_id"] for row in rows])
    ranked = client.predict(QUERY, api_name="/rank")
    assert [one["place_id"] for one in ranked] == [place for place, _ in expected]
    np.testing.assert_allclose([one["score"] for one in ranked], [score for _, score in expected], atol=1e-5)
    where = {row["place_id"]: (row["latitude_deg"], row["longitude_deg"]) for row in rows}
    assert [(one["latitude_deg"], one["longitude_deg"]) for one in ranked] == [where[place] for place, _ in expected]
    said, shown = search(client, QUERY)
    assert said == "" and names_of(shown) == [place for place, _ in expected]
    assert all("{:.6f}, {:.6f}".format(*where[place]) in shown for place, _ in expected)
    gate = re.search(r'class="bars gate">(.*?)</dl>', shown, re.DOTALL)[1]
    assert re.findall(r"<dt>(\w+)</dt>", gate) == ["satellite", "drone", "ground"]
    assert sum(map(float, re.findall(r"width:([\d.]+)%", gate))) == pytest.approx(100, abs=0.2)


def test_area_and_platform_are_honoured(page, gallery_dir: Path) -> None:
    client, _ = page
    rows = first_of_places(gallery_dir)
    where = {row["place_id"]: (row["latitude_deg"], row["longitude_deg"]) for row in rows}
    place, (latitude, longitude) = sorted(where.items())[0]
    box = [f"{latitude - 1e-5:.7f}", f"{longitude - 1e-5:.7f}", f"{latitude + 1e-5:.7f}", f"{longitude + 1e-5:.7f}"]
    assert names_of(search(client, QUERY, *box, "", "", "")[1]) == [place]
    near = ["", "", "", "", f"{latitude}", f"{longitude}", "0.01"]
    assert names_of(search(client, QUERY, *near)[1]) == [place]
    _, nothing = search(client, QUERY, "-10", "170", "10", "-170", "", "", "")
    assert names_of(nothing) == [] and "No picture" in nothing
    _, drone = search(client, QUERY, platforms=("drone",))
    assert "drone picture of" in drone and "ground picture of" not in drone


def test_the_place_that_fits_a_negated_sentence_falls_and_the_others_stay() -> None:
    from pemoe.hub_cards.space.app import Gallery, Picture, _rank

    gallery = Gallery("", tuple(Picture(str(n), str(n), "drone", None, None) for n in range(10)), np.zeros((10, 1)))
    fits = np.stack([np.linspace(0.5, 0.4, 10), np.eye(10)[0]])  # the first alone fits the statement
    said, denied = (
        {one["place_id"]: one["score"] for one in _rank(gallery, np.ones(10, bool), fits, [statement], 10)}
        for statement in (Statement("a pond", "a pond"), Statement("no pond", "a pond", negated=True))
    )
    assert next(iter(said)) == "0" and next(iter(denied)) == "1"
    assert [place for place in said if denied[place] != said[place]] == ["0"] and denied["0"] < said["0"]


def test_a_negated_sentence_raises_nothing_and_is_shown(page) -> None:
    client, _ = page
    before = {one["place_id"]: one["score"] for one in client.predict(QUERY, api_name="/rank")}
    after = {one["place_id"]: one["score"] for one in client.predict(f"{QUERY}. Not the tower.", api_name="/rank")}
    assert set(after) == set(before) and all(after[place] <= before[place] + 1e-6 for place in before)
    said, shown, *_ = client.predict("not the tower", [], 5, *[""] * 7, api_name="/refine")
    assert said == "" and '<dt class="not">not the tower</dt>' in shown


def test_uploaded_pictures_are_searched_instead_turned_as_a_viewer_does(page, model_dir: Path, tmp_path: Path) -> None:
    client, _ = page
    rng = np.random.default_rng(0)
    names, pictures = ["<b>&.png", "two.png", "turned.jpg"], []
    for name in names:
        picture = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
        exif = picture.getexif()
        exif[0x0112] = 6 if name == "turned.jpg" else 1
        picture.save(tmp_path / name, exif=exif)
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        pictures.append(Image.fromarray(np.rot90(pixels, -1) if name == "turned.jpg" else pixels))
    said = client.predict([handle_file(tmp_path / name) for name in names], api_name="/read_pictures")
    assert said == "3 of your pictures will be searched."
    _, shown = search(client, QUERY)
    expected = brute_force(model_dir, pictures, names)
    scores = [float(score) for score in re.findall(r"score (-?[\d.]+) ", shown)]
    np.testing.assert_allclose(scores, [score for _, score in expected], atol=6e-4)
    assert "3 pictures were searched" in shown and "<b>" not in shown and "3 without coordinates" in shown
    client.predict([handle_file(tmp_path / "two.png")] * 2, api_name="/read_pictures")
    assert len(names_of(search(client, QUERY)[1])) == 2, "one name, two pictures"
    client.predict([], api_name="/read_pictures")
    assert "yours" not in search(client, QUERY)[1]


def test_what_cannot_be_searched_is_one_line(page, tmp_path: Path) -> None:
    client, _ = page
    for sentence, word in (("  ", "first"), ("roof " * 101, "500"), ("?!", "in words")):
        said, shown = search(client, sentence)
        assert said.count("<p") == 1 and 'role="alert"' in said and word in said and shown == ""
        with pytest.raises(AppError, match=word):
            client.predict(sentence, api_name="/rank")
    for area, word in (
        (["1", "", "", "", "", "", ""], "none of them"),
        (["2", "0", "1", "0", "", "", ""], "exchange"),
        (["91", "0", "92", "1", "", "", ""], "from -90 to 90"),
        (["nan", "0", "1", "1", "", "", ""], "no number"),
        (["", "", "", "", "0", "0", "-1"], "radius"),
    ):
        said, _ = search(client, QUERY, *area)
        assert 'role="alert"' in said and word in said
    (tmp_path / "text.png").write_bytes(b"no picture")
    Image.new("1", (6000, 5000)).save(tmp_path / "large.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    for names, word in (
        (["text.png"], "no picture"),
        (["large.png"], "too large"),
        (["small.png"] * 13, "13 pictures"),
    ):
        said = client.predict([handle_file(tmp_path / name) for name in names], api_name="/read_pictures")
        assert 'role="alert"' in said and word in said
        assert search(client, QUERY) == (said, ""), "other pictures are not searched in their place"
    client.predict([], api_name="/read_pictures")


def test_the_app_reaches_no_network(page) -> None:
    client, addresses = page
    client.predict(QUERY, api_name="/rank")
    reached = set(addresses.read_text().split()) if addresses.exists() else set()
    assert reached <= {"127.0.0.1", "localhost", "::1", "0.0.0.0", "None"}


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    space = write_bundle(tmp_path / "space", bundle_space(str(tmp_path / "empty")))
    process, _ = start(space, tmp_path / "home")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{tmp_path / 'empty'} or its gallery None cannot be loaded" in errors.strip().splitlines()[-1]
    assert "Traceback" not in errors


def test_the_bundle_names_model_and_gallery_and_their_revisions() -> None:
    files = bundle_space("me/pemoe", "me/campus", model_revision="v1", gallery_revision="v2", private_model=True)
    settings = json.loads(files["space.json"])
    assert (settings["model"], settings["model_revision"]) == ("me/pemoe", "v1")
    assert (settings["gallery"], settings["gallery_revision"]) == ("me/campus", "v2")
    card = SpaceCard(files["README.md"].decode())
    data = card.data.to_dict()
    assert (data["sdk"], data["app_file"], data["license"]) == ("gradio", "app.py", "apache-2.0")
    assert (data["models"], data["datasets"]) == (["me/pemoe"], ["me/campus"])
    assert f"gradio=={data['sdk_version']}\n" in files["requirements.txt"].decode()
    assert "HF_TOKEN" in card.text and "Not** for" in card.text
    assert not re.search(r"{{|{%|None", card.text)
    for path, content in files.items():
        if path.endswith(".py"):
            compile(content, path, "exec")
            assert b"from pemoe" not in content and b"import pemoe" not in content
    alone = SpaceCard(bundle_space("me/pemoe")["README.md"].decode())
    assert "datasets" not in yaml.safe_load(alone.content.split("---")[1])
    assert "HF_TOKEN" not in alone.text and "None" not in alone.text


def test_a_space_needs_what_the_package_needs() -> None:
    setup = (ROOT / "setup.py").read_text()
    for line in bundle_space("me/pemoe")["requirements.txt"].decode().split():
        name, pin = re.fullmatch(r"(\w+)(.+)", line).groups()
        assert f'"{line}"' in setup or (pin.startswith("==") and f'"{name}>={pin[2:].split(".")[0]}' in setup)


@pytest.mark.parametrize("name", ["nobody", "a b/c", "me/pemoe/x", ""])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="owner/name"):
        bundle_space(name)
