"""Every page of the rendered book in a browser; run by ``make pages``, after ``make book``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pages
import pytest

axe = pytest.importorskip("axe_playwright_python.base", reason="pip install -e .[test]")

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
PAGES = [*pages.contents(ROOT), "genindex", "search"]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
MOST_BYTES = 1_500_000

pytestmark = pytest.mark.pages

# what reaches past the window or is cut off, and code that a screen of 1280 pixels has to break
CLIPPED = """wide => {
  const found = [], name = e => `${e.tagName.toLowerCase()}.${e.className} ` +
    e.textContent.trim().slice(0, 40).replace(/\\s+/g, " ");
  document.querySelectorAll(".toggle-hidden").forEach(e => e.classList.remove("toggle-hidden"));
  document.querySelectorAll("details").forEach(e => e.open = true);
  const over = document.documentElement.scrollWidth - innerWidth;
  if (over > 0) found.push(`the page is ${over} px wider than the window`);
  for (const e of document.querySelectorAll(".bd-article *")) {
    const style = getComputedStyle(e), hidden = ["hidden", "clip"].includes(style.overflowX);
    const shown = e.clientWidth > 40 && style.visibility == "visible";
    if (hidden && shown && e.scrollWidth > e.clientWidth + 1) found.push(`cut off: ${name(e)}`);
  }
  for (const e of document.querySelectorAll(".bd-article :is(pre, table, .output)")) {
    const box = [e, e.parentElement].find(b => b.scrollWidth > b.clientWidth + 1);
    if (wide && box?.clientWidth) found.push(`scrolls: ${name(e)}`);
  }
  for (const e of document.querySelectorAll(".cell_input pre")) {
    const style = getComputedStyle(e), padding = 2 * parseFloat(style.paddingTop);
    const lines = Math.round((e.clientHeight - padding) / parseFloat(style.lineHeight));
    const written = e.textContent.trimEnd().split("\\n").length;
    if (wide && e.clientHeight && lines > written) found.push(`a line is broken: ${name(e)}`);
  }
  return found;
}"""

SETTLED = "() => window.MathJax?.Hub && new Promise(done => MathJax.Hub.Queue(done))"

# thousands of words of code in a dozen colours, and formulas: one of each is enough for axe
SHORTENED = """() => {
  const seen = new Set();
  for (const e of document.querySelectorAll(".highlight pre span, .sig span, .MathJax span")) {
    if (e.querySelector("a")) continue;
    if (seen.has(e.className)) e.replaceWith(e.textContent);
    seen.add(e.className);
  }
}"""

AXE = """async rules => {
  const options = {resultTypes: ["violations"], preload: false, iframes: false};
  if (rules) options.runOnly = rules;
  const found = await axe.run(document, options);
  return found.violations.flatMap(v => v.nodes.map(n => `${v.id}: ${n.target} ${n.html}`));
}"""


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that notes in `problems` what goes wrong, and in `loaded` the files it asks for."""
    if not (HTML / "index.html").is_file():
        pytest.skip("no rendered book: run `make book PROFILE=smoke`")
    context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
    page = context.new_page()
    page.problems, page.loaded = [], []
    page.on("pageerror", lambda error: page.problems.append(f"error: {error}"))
    page.on("request", lambda request: note_request(page, request.url))
    page.on("console", lambda m: m.type == "error" and page.problems.append(f"console: {m.text}"))
    yield page
    context.close()


def note_request(page: Any, url: str) -> None:
    if url.startswith("file:"):
        page.loaded.append(Path(unquote(urlparse(url).path)))
    elif not url.startswith(("data:", "blob:")):
        page.problems.append(f"asks for {url}")


def open_page(page: Any, name: str) -> None:
    page.goto((HTML / f"{name}.html").as_uri())
    page.evaluate(SETTLED)


def own_bytes(page: Any) -> int:
    """The size of a page and of what it brings along; the theme and MathJax serve all pages."""
    static, shared = HTML / "_static", (HTML / "genindex.html").read_text(encoding="utf-8")
    theme = [static / name for name in ("mathjax", "scripts", "styles", "vendor")]
    own = {path for path in page.loaded if path.parent != static or path.name not in shared}
    own = {path for path in own if not any(path.is_relative_to(each) for each in theme)}
    return sum(path.stat().st_size for path in own if path.is_file())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_complete_readable_and_accessible(page: Any, name: str) -> None:
    open_page(page, name)
    found = [f"1280 px: {each}" for each in page.evaluate(CLIPPED, True)]
    page.set_viewport_size(PHONE)
    found += [f"390 px: {each}" for each in page.evaluate(CLIPPED, False)]
    page.set_viewport_size(DESKTOP)
    page.evaluate(SHORTENED)
    page.evaluate(axe.AXE_SCRIPT)
    found += [f"light: {each}" for each in page.evaluate(AXE, None)]
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme == 'dark'")
    found += [f"dark: {each}" for each in page.evaluate(AXE, ["color-contrast"])]
    if (size := own_bytes(page)) > MOST_BYTES:
        found.append(f"{size / 1e6:.1f} MB without the theme and MathJax")
    assert "\n".join([*page.problems, *found]) == ""


def test_the_theme_switch_changes_the_theme(page: Any) -> None:
    open_page(page, "book/intro")
    seen = set()
    for _ in range(3):
        page.locator(".theme-switch-button:visible").first.click()
        seen.add(page.evaluate("document.documentElement.dataset.mode"))
    assert seen == {"light", "dark", "auto"}


@pytest.mark.parametrize(
    ("term", "first"),
    [
        *((term, "glossary") for term in ("IoU", "DSC", "lesion load", "Jaccard", "F1")),
        ("Dice", "book/0"),  # a chapter
    ],
)
def test_search_finds_a_term(page: Any, term: str, first: str) -> None:
    page.goto((HTML / "search.html").as_uri() + f"?q={term}")
    page.wait_for_selector("#search-results ul.search li a")
    page.wait_for_function("document.querySelector('.search-summary').textContent.match(/[0-9]/)")
    links = page.eval_on_selector_all("#search-results li > a", "all => all.map(a => a.href)")
    assert first in links[0]
    if term == "Dice":  # chapters come before functions that have the word in their names
        plots = [n for n, link in enumerate(links) if "plot_" in link]
        chapters = [n for n, link in enumerate(links) if "/book/0" in link]
        assert chapters
        assert not plots or max(chapters) < min(plots)


def test_the_chapters_have_their_numbers(page: Any) -> None:
    open_page(page, "book/intro")
    links = page.eval_on_selector_all(
        "nav.bd-links li.toctree-l1 > a", "all => all.map(a => [a.pathname, a.textContent.trim()])"
    )
    assert sum(Path(path).name[0].isdigit() for path, _ in links) == 10
    for path, text in links:
        number = Path(path).name.split("_")[0]
        expected = f"{int(number)}. " if number.isdigit() else ""
        assert text.startswith(expected), text
        assert number.isdigit() or not text[0].isdigit(), text


def test_on_paper_everything_is_open_light_and_uncut(page: Any) -> None:
    page.emulate_media(color_scheme="dark")
    open_page(page, "book/02_baseline")
    answer, code = page.locator(".admonition.dropdown p").nth(1), page.locator("details.hide pre")
    assert answer.evaluate("e => e.clientHeight") == 0
    assert page.locator("#pst-primary-sidebar").is_visible()
    page.emulate_media(media="print")
    page.wait_for_function("document.documentElement.dataset.theme == 'light'")
    assert answer.evaluate("e => e.clientHeight") > 0
    assert code.first.evaluate("e => e.clientHeight") > 0
    assert not page.locator("#pst-primary-sidebar").is_visible()
    assert [each for each in page.evaluate(CLIPPED, True) if "broken" not in each] == []
    kept_whole = "all => all.length && all.every(e => getComputedStyle(e).breakInside == 'avoid')"
    assert page.eval_on_selector_all(".cell_output img", kept_whole)
