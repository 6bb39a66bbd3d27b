"""Invariant: in a real browser the demo shows what the index holds: type, search, click a pin, refine, choose an area,
by pointer, by keyboard and on a phone; no request leaves the machine."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from tiny_data import build_processor
from tiny_models import build_tiny_model

from pemoe.retrieval.index import Filter, GalleryIndex

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"),
]
QUERY = "red roof seen from drone"


def run(*words: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "pemoe", *words], stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def index(built_once: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index of the rendered campus under a random model."""
    root = tmp_path_factory.mktemp("demo")
    build_tiny_model().save_pretrained(root / "model")
    build_processor().save_pretrained(root / "model")
    uri = str(root / "campus.index")
    build = run("index", "build", str(built_once), "--model", str(root / "model"), "--output", uri)
    _, said = build.communicate(timeout=120)
    assert build.returncode == 0, said
    return uri


@pytest.fixture(scope="module")
def address(index: str) -> Iterator[str]:
    """Of the running demo, which Ctrl-C ends without a word."""
    port = free_port()
    demo = run("demo", "--index", index, "--port", str(port))
    where, deadline_s = f"http://127.0.0.1:{port}", time.monotonic() + 90
    try:
        while True:
            assert demo.poll() is None and time.monotonic() < deadline_s, demo.stderr.read()
            try:
                urllib.request.urlopen(where, timeout=5)
                break
            except OSError:
                time.sleep(0.3)
        yield where
        demo.send_signal(signal.SIGINT)
        _, said = demo.communicate(timeout=30)
        assert demo.returncode == 0 and "Traceback" not in said
    finally:
        demo.kill()


@pytest.fixture
def browser(address: str) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    set_size(driver, 1100, 1300)
    driver.get(address)
    yield driver
    driver.quit()


def test_a_port_in_use_is_one_line(index: str, address: str) -> None:
    second = run("demo", "--index", index, "--port", address.rpartition(":")[2])
    _, said = second.communicate(timeout=120)
    assert second.returncode == 2 and "is in use" in said.splitlines()[-1] and "Traceback" not in said


def set_size(browser: webdriver.Chrome, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def wait(browser: webdriver.Chrome, condition, said: str = "") -> object:
    return WebDriverWait(browser, 30, poll_frequency=0.2).until(condition, said)


def find(browser: webdriver.Chrome, selector: str) -> WebElement:
    return wait(browser, lambda one: next(iter(one.find_elements(By.CSS_SELECTOR, selector)), None), selector)


def field(browser: webdriver.Chrome, name: str) -> WebElement:
    return find(browser, f"#pemoe-{name} textarea, #pemoe-{name} input")


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent.trim())"
    return browser.execute_script(script, selector)


def names(browser: webdriver.Chrome) -> list[str]:
    return [one.split(". ", 1)[1] for one in texts(browser, ".place h3 span:first-child")]


def search(browser: webdriver.Chrome, sentence: str = QUERY) -> None:
    one = field(browser, "sentence")
    one.clear()
    one.send_keys(sentence + Keys.ENTER)
    wait(browser, lambda b: sentence in texts(b, ".said li"), "the answer")


def coordinates_of(index: str) -> dict[str, str]:
    rows = GalleryIndex.open(index).read(["place_id", "latitude_deg", "longitude_deg"]).to_pylist()
    return {one["place_id"]: f"{one['latitude_deg']:.6f}, {one['longitude_deg']:.6f}" for one in rows}


def test_a_pin_shows_its_place_with_the_coordinates_of_the_index(browser, index: str) -> None:
    search(browser)
    known, shown = coordinates_of(index), names(browser)
    assert len(shown) == min(len(known), 6) and len(set(shown)) == len(shown)
    for rank in (2, 1):
        find(browser, f'.pin[data-rank="{rank}"] text').click()
        card = wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".place.chosen"), "the card")
        assert [one.get_attribute("id") for one in card] == [f"place-{rank}"]
        assert card[0].find_element(By.CSS_SELECTOR, ".degrees").text == known[shown[rank - 1]]
        assert browser.switch_to.active_element == card[0]
    pictures = browser.find_elements(By.CSS_SELECTOR, "#place-1 img")
    assert pictures and all(int(one.get_attribute("naturalWidth")) > 50 for one in pictures)
    latitude, longitude = known[shown[0]].split(", ")
    links = [one.get_attribute("href") for one in browser.find_elements(By.CSS_SELECTOR, "#place-1 .where a")]
    assert links[0] == f"geo:{latitude},{longitude}" and f"mlat={latitude}&mlon={longitude}" in links[1]
    assert len(texts(browser, ".gate dt")) == 3
    assert all(one.startswith("http://127.0.0.1") for one in requests_of(browser))


def requests_of(browser: webdriver.Chrome) -> set[str]:
    """Addresses that the page asked for; `data:` holds its content itself."""
    events = (json.loads(one["message"])["message"] for one in browser.get_log("performance"))
    sent = (one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent")
    return {one for one in sent if not one.startswith(("data:", "chrome:", "about:"))}


def test_a_further_sentence_refines_and_a_negated_one_is_marked(browser) -> None:
    search(browser)
    before = dict(zip(names(browser), scores(browser), strict=True))
    field(browser, "further").send_keys("not the one with the tower" + Keys.ENTER)
    wait(browser, lambda b: len(texts(b, ".said li")) == 2, "two sentences")
    after = dict(zip(names(browser), scores(browser), strict=True))
    assert all(after[name] <= before[name] + 1e-3 for name in set(after) & set(before))
    assert texts(browser, "#place-1 .evidence .not") == ["not the one with the tower"]
    wait(browser, lambda b: field(b, "further").get_attribute("value") == "", "an emptied field")


def scores(browser: webdriver.Chrome) -> list[float]:
    return [float(one.split()[1]) for one in texts(browser, ".place > p.muted")]


def test_an_area_by_fields_and_by_a_drawn_box_is_searched_alone(browser, index: str) -> None:
    search(browser)
    known = coordinates_of(index)
    chosen = names(browser)[-1]
    latitude, longitude = map(float, known[chosen].split(", "))
    find(browser, "#pemoe-where button").click()
    box = {"south": latitude - 1e-4, "west": longitude - 1e-4, "north": latitude + 1e-4, "east": longitude + 1e-4}
    for name, degrees in box.items():
        field(browser, name).send_keys(f"{degrees:.6f}")
    find(browser, "#pemoe-redo").click()
    wait(browser, lambda b: names(b) == [chosen], "one place")
    where = Filter(box=tuple(round(one, 6) for one in box.values()))
    count = GalleryIndex.open(index).count(where)
    assert texts(browser, ".verdict p")[0].startswith(f"{count} pictures")
    find(browser, "#pemoe-clear").click()
    find(browser, "#pemoe-redo").click()
    wait(browser, lambda b: len(names(b)) > 1, "all places")
    browser.execute_script("document.querySelector('#pemoe-draw').scrollIntoView()")
    find(browser, "#pemoe-draw").click()
    pin = find(browser, '.pin[data-rank="1"] .dot')
    first = names(browser)[0]
    pull = webdriver.ActionChains(browser).move_to_element_with_offset(pin, -12, -12).click_and_hold()
    pull.move_by_offset(24, 24).release().perform()
    wait(browser, lambda b: names(b) == [first], "the place in the box")
    drawn = [float(field(browser, name).get_attribute("value")) for name in box]
    degrees = [float(one) for one in known[first].split(", ")]
    assert drawn[0] < degrees[0] < drawn[2] and drawn[1] < degrees[1] < drawn[3]


def test_the_keyboard_alone_searches_and_chooses(browser) -> None:
    active = browser.switch_to
    field(browser, "sentence")
    browser.execute_script("document.activeElement.blur()")
    for _ in range(12):  # to the first field, without a pointer
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        if active.active_element.tag_name in ("textarea", "input"):
            break
    active.active_element.send_keys(QUERY, Keys.ENTER)
    wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".pin"), "pins")
    for _ in range(60):
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        if active.active_element.get_attribute("data-rank") == "2":
            break
    assert active.active_element.get_attribute("aria-label").startswith("2. ")
    active.active_element.send_keys(Keys.ENTER)
    wait(browser, lambda b: [one.get_attribute("id") for one in b.find_elements(By.CSS_SELECTOR, ".place.chosen")])
    assert active.active_element.get_attribute("id") == "place-2"


def test_a_phone_shows_it_without_sideways_scrolling(browser) -> None:
    set_size(browser, 420, 900)
    search(browser)
    find(browser, "#pemoe-where button").click()
    field(browser, "south")
    wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    assert browser.execute_script(wide) == [420, 420]
    touch = browser.execute_script("return document.querySelector('.pin .touch').getBoundingClientRect().width")
    assert touch >= 24


@pytest.mark.parametrize(
    "said", ["   ", "?!", "<img src=x onerror=document.title=1> ${document.title=1} {{7*7}} \u202e"]
)
def test_hostile_and_empty_input_is_shown_as_text(browser, said: str) -> None:
    field(browser, "sentence").send_keys(said + Keys.ENTER)
    if said.strip().strip("?!"):
        wait(browser, lambda b: texts(b, ".said li") == [said.strip()], "the words as typed")
        assert browser.title != "1" and not browser.find_elements(By.CSS_SELECTOR, ".said img")
        assert field(browser, "sentence").get_attribute("maxlength") == "500"
        return
    alert = wait(browser, lambda b: texts(b, "[role=alert]"), "a line")
    assert len(alert) == 1 and "\n" not in alert[0] and "Traceback" not in alert[0]
