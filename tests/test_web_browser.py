"""The review page in a real headless Chromium, at a phone's and a desktop's width.

`GONBUILD_SCREENSHOTS=FOLDER` keeps pictures of what was seen.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import make_project

from gonbuild.desk import Desk
from gonbuild.web import serve

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
FLAGS = (
    "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update "
    "disable-sync"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS.split()])
        yield chromium
        chromium.close()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    project = make_project(tmp_path)
    project.build()
    return Desk(project)


@pytest.fixture
def address(desk: Desk) -> str:
    told: list[str] = []
    ready = threading.Event()
    args = (desk, "127.0.0.1", 0, "Lan", lambda url: (told.append(url), ready.set()))
    threading.Thread(target=serve, args=args, daemon=True).start()
    assert ready.wait(30)
    return told[0]


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens pages, each a browser of its own; complaints of the console and requests elsewhere fail the test."""
    wrong: list[str] = []
    contexts = []

    def make(size: dict[str, int] = DESKTOP, **options: Any) -> Any:
        context = browser.new_context(viewport=size, has_touch=size is PHONE, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(address) else None)
        page.goto(address)
        page.wait_for_selector("#cards button")
        return page

    yield make
    for context in contexts:
        context.close()
    assert [w for w in wrong if "favicon" not in w and "422" not in w] == []


def picture(page: Any, name: str) -> None:
    if folder := os.environ.get("GONBUILD_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def kinds(desk: Desk) -> list[tuple[str, str]]:
    return [(d.card, d.kind) for d in desk.reviews().decisions]


def open_card(page: Any, card: str) -> None:
    page.click(f'[data-card="{card}"]')
    page.wait_for_selector(f'.story[aria-label="{card}.1"]')


def fits(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_keys_alone_review_a_card(open_page: Callable[..., Any], desk: Desk) -> None:
    page = open_page()
    page.wait_for_selector(".story")
    picture(page, "desktop")
    page.keyboard.press("a")
    page.wait_for_selector('.story[aria-label="rung-001.1"] .badge.approve')
    page.keyboard.press("2")
    page.keyboard.press("b")
    picture(page, "desktop-ban")
    page.keyboard.type("nhạt")
    page.keyboard.press("Enter")
    page.wait_for_selector('.story[aria-label="rung-001.2"] .badge.ban')
    page.keyboard.press("j")
    page.wait_for_selector('.story[aria-label="lang-001.1"]')
    page.keyboard.press("p")
    page.wait_for_selector('.story[aria-label="lang-001.1"] .badge.pin')
    page.keyboard.press("u")
    page.wait_for_selector('.story[aria-label="lang-001.1"] .badge.open')
    assert kinds(desk) == [("rung-001", "approve"), ("rung-001", "ban")] or kinds(desk) == [
        ("rung-001", "ban"),
        ("rung-001", "approve"),
    ]
    assert {d.by for d in desk.reviews().decisions} == {"Lan"}


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_edit_pin_and_rate_by_hand(open_page: Callable[..., Any], desk: Desk, size: dict[str, int]) -> None:
    page = open_page(size)
    assert fits(page)
    picture(page, f"list-{size['width']}")
    open_card(page, "song-001")
    assert fits(page)
    first = page.locator('.story[aria-label="song-001.1"]')
    first.get_by_role("button", name="Sửa").click()
    field = first.locator("textarea")
    field.fill("dài " * 60)
    first.get_by_role("button", name="Lưu").click()
    page.wait_for_selector(".form .problem:not(:empty)")
    assert "60 words" in first.locator(".problem").inner_text()
    assert field.input_value() == "dài " * 60
    picture(page, f"problem-{size['width']}")
    field.fill("Lũ về. Sông mất 1 điểm.")
    first.get_by_role("button", name="Lưu").click()
    page.wait_for_selector(".next")
    assert first.locator(".next span").inner_text() == "Lũ về. Sông mất 1 điểm."
    second = page.locator('.story[aria-label="song-001.2"]')
    second.get_by_role("button", name="Chấm").click()
    second.get_by_role("button", name="Có lý 4").click()
    second.get_by_role("button", name="Lưu").click()
    page.wait_for_selector('.story[aria-label="song-001.2"] .log')
    chosen = page.locator(".candidates li").first
    text = chosen.locator("p").first.inner_text()
    chosen.locator('[data-use="2"]').click()
    page.wait_for_selector('.story[aria-label="song-001.2"] .next')
    assert fits(page)
    picture(page, f"card-{size['width']}")
    found = {d.kind: d.text for d in desk.reviews().decisions}
    assert found["edit"] == "Lũ về. Sông mất 1 điểm."
    assert found["pin"] == text
    assert desk.reviews().decisions[-1].scores in ({"sense": 4}, {})


def test_filters_find_cards_by_deck_state_reason_and_words(open_page: Callable[..., Any], desk: Desk) -> None:
    desk.approve("rung-001", desk.sheet("rung-001").stories[0].story.text)
    page = open_page()
    shown = page.locator("#cards li")
    page.select_option("#state", "approve")
    assert shown.count() == 1
    page.select_option("#state", "")
    page.fill("#search", "quét ngõ")
    assert shown.all_inner_texts()[0].startswith("Quét Ngõ Sáng Chủ Nhật")
    page.fill("#search", "không có gì")
    assert page.locator("#count").inner_text() == "Không có thẻ nào hợp với bộ lọc."
    page.fill("#search", "")
    page.select_option("#deck", "Thử")
    assert shown.count() == 3
    reasons = page.locator("#reason option").evaluate_all("options => options.map(o => o.value)")
    page.select_option("#reason", reasons[-1])
    assert shown.count() >= 1


def test_language_is_switched_and_remembered(open_page: Callable[..., Any]) -> None:
    page = open_page()
    assert page.evaluate("document.documentElement.lang") == "vi"
    page.click("#lang")
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("h1").inner_text() == "Story review"
    picture(page, "desktop-english")
    page.reload()
    page.wait_for_selector("#cards button")
    assert page.locator("h1").inner_text() == "Story review"
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    picture(page, "keys")


def test_two_browsers_see_each_other_and_lose_nothing(open_page: Callable[..., Any], desk: Desk) -> None:
    one, two = open_page(), open_page(PHONE)
    one.wait_for_selector(".story")
    open_card(two, "rung-001")
    two.locator('.story[aria-label="rung-001.2"]').get_by_role("button", name="Duyệt").click()
    one.keyboard.press("a")
    one.wait_for_selector('.story[aria-label="rung-001.2"] .badge.approve')
    two.wait_for_selector('.story[aria-label="rung-001.1"] .badge.approve')
    assert kinds(desk) == [("rung-001", "approve")] * 2


def test_what_is_typed_outlives_another_browser_s_decision(open_page: Callable[..., Any], desk: Desk) -> None:
    page = open_page()
    page.wait_for_selector(".story")
    page.keyboard.press("e")
    page.locator("textarea").fill("Đang viết dở")
    desk.approve("rung-001", desk.sheet("rung-001").stories[1].story.text)
    sync_api.expect(page.locator("#progress")).to_have_text("1/6 truyện đã duyệt")
    assert page.locator("textarea").input_value() == "Đang viết dở"


def test_hostile_texts_are_shown_and_do_nothing(open_page: Callable[..., Any], desk: Desk) -> None:
    hostile = '<img src=x onerror=alert(1)> "&amp; <script>alert(2)</script>'
    desk.pin("rung-001", 1, hostile)
    page = open_page(reduced_motion="reduce", color_scheme="dark")
    page.wait_for_selector(".next")
    assert page.locator(".next span").inner_text() == hostile
    assert page.locator("#sheet img, #sheet script").count() == 0
    picture(page, "dark")


def test_stopped_server_is_said(open_page: Callable[..., Any], desk: Desk) -> None:
    page = open_page()
    page.wait_for_selector(".story")
    (desk.project.root / "cards/reviews.yaml").write_text("<<<<<<< HEAD\n")
    page.wait_for_selector("#banner:not([hidden])")
    assert "conflict marker" in page.locator("#banner").inner_text()
