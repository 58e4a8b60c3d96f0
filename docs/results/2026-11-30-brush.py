"""Times the brush of a running `motfm app` in Chromium.

    motfm app --run=runs/map &
    .venv/bin/python docs/results/2026-11-30-brush.py http://127.0.0.1:7860

Needs playwright and Debian's chromium. Prints the milliseconds from the pointer's touch to another
image: the median, least and greatest of 30 dabs, after the first of them.
"""

import shutil
import statistics
import sys

from playwright.sync_api import sync_playwright

DABS = 30
WATCH = """() => document.querySelector("canvas").addEventListener("pointerdown", () => {
  const begin = performance.now(), image = () => document.querySelector(".made img").src;
  const old = image();
  window.took = null;
  const look = () => {
    if (image() !== old) window.took = performance.now() - begin;
    else requestAnimationFrame(look);
  };
  look();
}, true)"""


def main(address: str) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1040, "height": 900})
        page.goto(address)
        page.wait_for_selector(".made img", timeout=120_000)
        page.click(".brush .clear")
        page.wait_for_timeout(3000)
        page.evaluate(WATCH)
        box, times = page.locator("canvas").bounding_box(), []
        for dab in range(DABS + 1):
            across, down = 0.08 + 0.14 * (dab % 7), 0.1 + 0.18 * (dab // 7)
            page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
            page.mouse.down()
            page.mouse.up()
            page.wait_for_function("() => window.took != null")
            times.append(page.evaluate("window.took"))
            page.wait_for_timeout(1000)
        browser.close()
    times = times[1:]
    print(f"{statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
