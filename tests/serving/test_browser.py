"""The web page in headless Chromium, as its users use it (docs/browser_tests.md)."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hdvl.inference.load import load
from hdvl.serving import ServedModel
from tests.serving.live import Live, serving

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)
ASSETS = Path(__file__).resolve().parents[2] / "hdvl" / "assets"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    models = [
        ServedModel("hdvl/small", load("hdvl/small")),
        ServedModel("second", load("hdvl/small")),
    ]
    with serving(models) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(
            executable_path=CHROMIUM,
            headless=True,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, live: Live) -> Iterator[Any]:
    """The page in a new window. It must load nothing from elsewhere and raise nothing."""
    context = browser.new_context(viewport={"width": 1200, "height": 850}, locale="en-GB")
    found = context.new_page()
    faults: list[str] = []
    found.on("pageerror", lambda error: faults.append(str(error)))
    found.on("request", lambda one: _check_address(one.url, live.url, faults))
    found.set_default_timeout(60_000)
    found.goto(live.url)
    found.wait_for_selector("#model option", state="attached")
    yield found
    context.close()
    assert not faults


def _check_address(url: str, own: str, faults: list[str]) -> None:
    if not url.startswith((own, "data:", "blob:")):
        faults.append(f"loaded {url}")


def until(page: Any, condition: str, arg: Any = None) -> None:
    """Wait until an expression holds. Playwright's own way needs eval, which the page's policy forbids."""
    end = time.monotonic() + 60
    while not page.evaluate(condition, arg):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def shot(page: Any, name: str) -> None:
    """Keep a screenshot if a folder for them is given."""
    if folder := os.environ.get("HDVL_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def ask(page: Any, text: str, *, wait: bool = True) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")
    if wait:
        page.wait_for_selector(".again")


def test_upload_see_tiles_ask_and_get_a_box(page: Any) -> None:
    page.set_input_files("#file", str(ASSETS / "receipt.png"))
    until(page, "document.querySelector('#cost').textContent.includes('tokens')")
    tiles = page.locator("#pending svg .tile").count()
    assert tiles > 1
    shot(page, "tiles")
    ask(page, "What is the total?")
    assert "2,199.60" in page.locator(".assistant .words").inner_text()
    assert "tokens read" in page.locator(".assistant .note").inner_text()
    ask(page, "Where is the total?")  # a second turn, with the history
    assert page.locator(".turn").count() == 4
    assert page.locator(".assistant .words").nth(1).inner_text() == "total"
    box = page.locator(".assistant svg .box")
    assert box.count() == 1
    assert 800 < float(box.get_attribute("x")) < 1000 and 450 < float(box.get_attribute("y")) < 520
    shot(page, "box")
    page.locator(".assistant .image").click()
    page.wait_for_selector("dialog[open] .box", state="attached")
    before = page.locator("dialog .image").evaluate("one => one.style.transform")
    page.mouse.move(600, 400)
    page.mouse.wheel(0, -500)
    until(
        page, "old => document.querySelector('dialog .image').style.transform !== old", arg=before
    )
    shot(page, "zoomed")
    page.click("dialog > button")
    page.click(".again")
    until(page, "document.querySelectorAll('.again').length === 1")
    assert page.locator(".turn").count() == 4


def test_a_box_is_drawn_on_the_image_that_it_is_in(page: Any) -> None:
    files = [str(ASSETS / name) for name in ("tag.png", "receipt.png")]
    page.set_input_files("#file", files)
    until(page, "document.querySelector('#cost').textContent.startsWith('2 image')")
    assert page.locator("#pending figure").count() == 2
    ask(page, "Where is the total?")
    drawn = page.evaluate(
        "boxed({boxes: [{box: [1, 2, 3, 4], image: 1, label: 'x'}]}, 1).map(([image]) => image.name)"
    )
    assert drawn == ["receipt.png"]
    shot(page, "two_images")


def test_the_answer_is_streamed_and_can_be_stopped(page: Any, live: Live) -> None:
    # A long answer: the end marker is forbidden through the page's own request.
    page.evaluate(
        """() => { const send = window.fetch; window.fetch = (path, options) => {
          if (path === '/v1/chat/completions') options.body = JSON.stringify(
            {...JSON.parse(options.body), guided_regex: '[ab ]{1500,}', max_tokens: 1900});
          return send(path, options); }; }"""
    )
    ask(page, "Say something long.", wait=False)
    until(page, "document.querySelector('.assistant .words').textContent.length > 3")
    first = len(page.locator(".assistant .words").inner_text())
    until(
        page,
        "old => document.querySelector('.assistant .words').textContent.length > old",
        arg=first,
    )
    page.click("#stop")
    page.wait_for_selector(".again")
    assert page.locator(".assistant .note").inner_text() == "stopped"
    assert live.models[0].pipe.engine.counters.finished.get("cancelled", 0) >= 0


def test_a_file_that_is_no_image_is_refused_and_others_stay(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    page.set_input_files("#file", [str(ASSETS / "tag.png"), str(tmp_path / "notes.png")])
    page.wait_for_selector("#error:not([hidden])")
    until(page, "document.querySelector('#cost').textContent.includes('tokens')")
    page.wait_for_selector("#error:not([hidden])")
    assert "notes.png is no image" in page.locator("#error").inner_text()
    assert page.locator("#pending figure").count() == 1
    shot(page, "refused")


def test_models_languages_themes_examples_and_options(page: Any) -> None:
    assert page.locator("#model option").all_inner_texts() == ["hdvl/small", "second"]
    page.select_option("#model", "second")
    page.click("#gallery button >> nth=0")
    until(page, "document.querySelector('#cost').textContent.includes('tokens')")
    many = page.locator("#cost").inner_text()
    page.click("#options")
    page.locator("#tiles").fill("1")
    until(page, "old => ![old, ''].includes(document.querySelector('#cost').textContent)", arg=many)
    page.click("#language")
    assert page.locator("#send").inner_text() == "提问"
    page.click("#theme")
    shot(page, "chinese_dark")
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    assert page.locator("#send").inner_text() == "提问"
    assert page.evaluate("document.documentElement.dataset.theme") == theme


def test_pasted_and_dropped_images(page: Any) -> None:
    for kind in ("paste", "drop"):
        page.evaluate(
            """async kind => {
              const blob = await (await fetch('/page/examples/tag.png')).blob();
              const data = new DataTransfer();
              data.items.add(new File([blob], kind + '.png', {type: 'image/png'}));
              const event = kind === 'paste'
                ? new ClipboardEvent('paste', {clipboardData: data, bubbles: true})
                : new DragEvent('drop', {dataTransfer: data, bubbles: true});
              document.getElementById('text').dispatchEvent(event); }""",
            kind,
        )
        page.wait_for_selector(f"#pending img[alt='{kind}.png']")
    assert page.locator("#pending figure").count() == 2


def test_the_page_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.set_input_files("#file", str(ASSETS / "receipt.png"))
    until(page, "document.querySelector('#cost').textContent.includes('tokens')")
    ask(page, "What is the total?")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#send").bounding_box()["x"] + 40 < 390
    shot(page, "phone")
    page.click("#options")
    assert page.locator("#temperature").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
