"""Pictures of a running service's page, for the documentation.

Usage: python benchmarks/page_screenshots.py --url http://127.0.0.1:8000 --domain films
       --title "toy story" --title "matrix" [--out docs/img]

Each title is typed into the page's search and the first one found is taken. Needs Playwright (extra
`dev`) and a Chromium on the path or in $CHROMIUM. Writes `page_desktop.png` (1280 pixels wide),
`page_compare.png` (the same, side by side) and `page_phone.png` (360 pixels wide).
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Page, expect, sync_playwright

from program import program

WAIT = 10 * 60 * 1000  # ms: a mix may have to be prepared first
SIZES = {
    "desktop": {"width": 1280, "height": 800},
    "compare": {"width": 1280, "height": 800},
    "phone": {"width": 360, "height": 1200},
}


def choose(page: Page, titles: Sequence[str]) -> None:
    """Build a history by typing, as a visitor does."""
    for number, title in enumerate(titles, 1):
        search = page.get_by_role("combobox", name="Search titles")
        search.fill(title)
        expect(page.locator("#options").get_by_role("option").first).to_be_visible()
        search.press("ArrowDown")
        search.press("Enter")
        expect(page.locator(".chip")).to_have_count(number)


def settled(page: Page) -> None:
    """Wait until every list is there."""
    expect(page.locator(".ranking").first).to_be_visible(timeout=WAIT)
    expect(page.locator("[aria-busy]")).to_have_count(0, timeout=WAIT)


def shoot(browser: Any, url: str, domain: str, titles: Sequence[str], out: Path) -> list[Path]:
    """Take all pictures; gives their files."""
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, size in SIZES.items():
        context = browser.new_context(viewport=size, color_scheme="light", reduced_motion="reduce")
        page = context.new_page()
        page.goto(f"{url.rstrip('/')}/#{urlencode({'domain': domain})}")
        expect(page.get_by_label("Domain")).to_have_value(domain)
        choose(page, titles)
        if name == "compare":
            page.get_by_text("Side by side").click()
            expect(page.locator(".column")).to_have_count(3)
        settled(page)
        page.get_by_role("heading", level=1).click()  # no caret in the picture
        file = out / f"page_{name}.png"
        page.screenshot(path=file, full_page=name != "phone")
        files.append(file)
        context.close()
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the pictures of one service."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--domain", required=True)
    parser.add_argument("--title", action="append", required=True, help="may be repeated")
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    options = parser.parse_args(arguments)
    named = os.environ.get("CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    executable = next((found for name in names if (found := shutil.which(name))), None)
    if executable is None:
        sys.exit("No Chromium is found; install it or name it in $CHROMIUM.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-background-networking"]
        )
        for file in shoot(browser, options.url, options.domain, options.title, options.out):
            print(file)
        browser.close()


if __name__ == "__main__":
    program(main)
