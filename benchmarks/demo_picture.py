"""Draws a picture of the demo: starts it, types a sentence, presses the first pin, saves what a browser shows.

Needs Chromium with its driver and selenium.

Example: python benchmarks/demo_picture.py --index campus.index --output demo.png
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S, ANSWER_S = 180, 60
SENTENCE = "round white arena beside a car park"


@contextmanager
def running_demo(index: str, model: str | None) -> Iterator[str]:
    """The address of a demo on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pemoe", "demo", "--index", index, "--port", str(port)]
    demo = subprocess.Popen([*command, *(["--model", model] if model else [])])
    address, deadline_s = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while True:
            if demo.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit("the demo did not start; what it said stands above")
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        yield address
    finally:
        demo.send_signal(signal.SIGINT)
        try:
            demo.wait(timeout=20)
        except subprocess.TimeoutExpired:
            demo.kill()


def take_picture(address: str, sentence: str, path: Path, width_px: int, height_px: int) -> None:
    """Type the sentence, press the first pin, save the window."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.binary_location = shutil.which("chromium") or ""
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        size = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": width_px < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(address)

        def find(selector: str):
            waiting = WebDriverWait(browser, ANSWER_S)
            return waiting.until(lambda one: next(iter(one.find_elements(By.CSS_SELECTOR, selector)), None), selector)

        find("#pemoe-sentence textarea, #pemoe-sentence input").send_keys(sentence + Keys.ENTER)
        find(".pin text").click()
        browser.execute_script("window.scrollTo(0, 0)")
        time.sleep(1)  # its fades
        browser.save_screenshot(str(path))
    finally:
        browser.quit()


def main() -> None:
    """Parse, start, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True)
    parser.add_argument("--model")
    parser.add_argument("--output", type=Path, default=Path("demo.png"))
    parser.add_argument("--sentence", default=SENTENCE)
    parser.add_argument("--width-px", type=int, default=1100)
    parser.add_argument("--height-px", type=int, default=1200)
    options = parser.parse_args()
    for tool in ("chromium", "chromedriver"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is missing (Debian: apt install chromium-driver)")
    with running_demo(options.index, options.model) as address:
        take_picture(address, options.sentence, options.output, options.width_px, options.height_px)
    print(options.output)


if __name__ == "__main__":
    main()
