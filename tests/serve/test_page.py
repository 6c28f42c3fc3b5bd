"""The page of `xattn serve` in a real browser, served as a user serves it."""

import re
import signal
import subprocess
import sys

import pytest

from index_photos import write_photo, write_photos, written_run
from xattn.cli.main import main
from xattn.index.adding import add_photos
from xattn.index.photo_index import create_index

pytest.importorskip("lancedb")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

ODD = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def index(tmp_path_factory, configured):
    folder = tmp_path_factory.mktemp("served")
    write_photos(folder / "photos", 6)
    write_photo(folder / "photos" / ODD, 70)
    made = create_index(folder / "index", written_run(folder / "run", configured))
    add_photos(made, [folder / "photos"], progress=lambda *_: None)
    return made


@pytest.fixture(scope="module")
def served(index):
    """The address of the page, and its process, which ends well when it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-m", "xattn", "serve", str(index.folder), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert found, line
    yield found[0]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.fixture
def tab(browser, served):
    """The page; at its end nothing was said on the console, and no other address was asked."""
    asked, said = [], []
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    tab = context.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.goto(served)
    yield tab
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith((served, "data:"))] == []


def searched(tab, sentence):
    tab.get_by_label("What to look for").fill(sentence)
    tab.keyboard.press("Enter")
    tab.get_by_text(f"photos for “{sentence}”").wait_for()
    return tab.locator("#hits > li")


@pytest.mark.slow
def test_hits_are_lit_by_words(tab):
    tab.get_by_text("7 photos; scan-t2i-avg alone").wait_for()
    hits = searched(tab, "a red dog")
    assert hits.count() == 7
    assert tab.locator("#hits img").first.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
    assert hits.first.locator(".picture span").count() == 2  # red, dog
    red = tab.get_by_role("group", name="Words of the sentence").get_by_role("button").first
    red.focus()
    tab.keyboard.press("Space")
    assert red.get_attribute("aria-pressed") == "true"
    assert all(hit.locator(".picture span").count() == 1 for hit in hits.all())
    tab.keyboard.press("Space")
    assert hits.first.locator(".picture span").count() == 2


@pytest.mark.slow
def test_a_click_opens_the_explorer(tab):
    hits = searched(tab, "two children play")
    hits.nth(1).get_by_role("button").click()
    words = tab.get_by_role("toolbar", name="Words of the caption").get_by_role("button")
    words.first.wait_for()
    assert "children" in [each.inner_text().split()[0] for each in words.all()]
    assert tab.evaluate("document.activeElement.id") == "explorer"
    searched(tab, "water")
    assert tab.locator("#explorer").is_hidden()


@pytest.mark.slow
def test_markup_is_text(tab):
    hits = searched(tab, "a <b>red</b> dog")
    assert any(ODD in hit.inner_text() for hit in hits.all())
    assert tab.locator("#hits img[src=x], #said b").count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(tab, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab.emulate_media(color_scheme=scheme)
    hits = searched(tab, "a red dog")
    hits.first.get_by_role("button").click()
    tab.get_by_role("toolbar", name="Words of the caption").wait_for()
    found = axe.Axe().run(tab)
    assert found.violations_count == 0, found.generate_report()


def test_what_serve_refuses(capsys, index, tmp_path):
    for arguments, said in (
        ([str(tmp_path)], "this is no index"),
        ([str(index.folder), "--port", "70000"], "a port is a number from 0 to 65535"),
        ([str(index.folder), "--host", "192.0.2.1"], "192.0.2.1:8765: cannot be served at this address"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["serve", *arguments])
        assert left.value.code == 2
        err = capsys.readouterr().err
        assert said in err
        assert ("everybody who reaches this machine at 192.0.2.1 can see all photos" in err) == ("--host" in arguments)
