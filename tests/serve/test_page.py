"""The page, in the Chromium of the system: what a reader does, sees and is told."""

import base64
import csv
import json
import re
import shutil
import signal

import cv2
import numpy as np
import pydicom
import pytest
import requests

from knee_jax import pictures
from knee_jax.phantom import study
from knee_jax.serve.routes import PAGE
from knee_jax.serve.security import HEADERS
from tests.commands import wait_for
from tests.serve.conftest import knee

TOKEN = "a-long-random-word-0123456789"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def luminance(colour):
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground", "least"),
    [
        *(
            (text, ground, 4.5)
            for text in ("ink", "soft", "accent")
            for ground in ("paper", "tint")
        ),
        ("bad", "paper", 4.5),
        ("bad", "tint", 4.5),
        ("ink", "alert", 4.5),
        ("on-accent", "accent", 4.5),
        ("edge", "paper", 3),
        ("accent", "tint", 3),
    ],
)
def test_colours_have_the_contrast_of_wcag_aa(scheme, text, ground, least):
    palettes = re.findall(r":root \{(.*?)\}", (PAGE / "page.css").read_text())
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", palettes[scheme]))
    high, low = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= least


def test_nothing_of_the_page_is_markup_made_of_names():
    for path in PAGE.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", path.read_text()
        )
    page = (PAGE / "index.html").read_text()
    assert "For research only, not a medical device." in page
    assert not re.search(r"<script>|<style|style=|\son\w+=|https?://", page)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # As root, and in containers, Chromium has no sandbox of its own.
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def address(shared):
    return shared[1]


@pytest.fixture
def opened(browser):
    """Opens the page; nothing may leave the machine, and the browser may complain of nothing."""
    complaints, contexts = [], []

    def open_page(address, **look):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | look))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda r: r.url.startswith((address, "data:", "blob:")) or complaints.append(r.url),
        )
        # Of a token that is missing, and of a connection that a test breaks off.
        known = ("401", "net::ERR_FAILED")
        page.on("console", lambda m: any(k in m.text for k in known) or complaints.append(m.text))
        page.set_default_timeout(15_000)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def films(*levels):
    return [
        {"name": f"knee_{i}_R.png", "mimeType": "image/png", "buffer": knee(level)}
        for i, level in enumerate(levels)
    ]


@pytest.mark.slow
def test_one_film_is_shown_with_its_grades(opened, address, tmp_path):
    page = opened(address)
    page.wait_for_selector("text=Model: means")
    assert page.locator("#sitting").is_hidden()
    page.screenshot(path=tmp_path / "empty.png")
    page.set_input_files("#files", films(30))
    page.wait_for_selector("figure canvas")
    assert page.locator("figure h3").inner_text() == "Right knee"
    assert "as they lie on the film" in page.locator("#lie").inner_text()
    assert re.search(
        r"KL grade 3 confidence \d\d % \(calibrated\)", page.locator(".answer").inner_text()
    )
    row = json.loads(page.evaluate("sessionStorage.jobs"))
    picture = page.request.get(f"{address}/jobs/{row[0]}/results.json").json()["rows"][0]
    widths = [
        float(style.removeprefix("width: ").removesuffix("%;"))
        for style in page.locator(".bar i").evaluate_all(
            "all => all.map(i => i.getAttribute('style'))"
        )
    ]
    assert widths == pytest.approx([100 * picture[f"kl_p{c}"] for c in range(5)], abs=0.01)

    def seen():
        page.wait_for_timeout(100)
        return page.evaluate("document.querySelector('canvas').toDataURL()")

    wait_for(lambda: page.evaluate("document.querySelector('canvas').width") > 300)
    before = seen()
    for control in ("#landmarks", "#heat", "#in"):
        page.click(control)
        after = seen()
        assert after != before, control
        before = after
    page.locator("#level").fill("60")
    assert seen() != before
    page.click("#reset")
    page.click("#heat")
    page.click("#landmarks")
    page.screenshot(path=tmp_path / "one.png", full_page=True)
    page.reload()
    page.wait_for_selector("figure canvas")
    assert page.locator("#list button").count() == 1


def kept(address):
    """Number of requests of which the server keeps the results."""
    text = requests.get(f"{address}/metrics", timeout=10).text
    return float(re.search(r"^knee_jax_requests_kept (\S+)$", text, re.M)[1])


@pytest.mark.slow
def test_a_sitting_is_cleared_while_its_films_are_graded(opened, address):
    page, before = opened(address), kept(address)
    page.set_input_files("#files", films(*[0] * 10))
    page.wait_for_selector("#list button")
    page.click("#clear")
    assert page.locator("#list button").count() == 10, "one click is not enough"
    page.click("text=Clear it for good")
    page.wait_for_selector("text=The sitting is cleared")
    (film,) = films(30)
    page.set_input_files("#files", [{**film, "name": "new_R.png"}])
    page.wait_for_selector("text=1 film in this sitting.")
    page.wait_for_timeout(2000)
    (listed,) = page.locator("#list button").all_inner_texts()
    assert listed.split("\n") == ["new_R.png", "R: KL grade 3"]
    assert kept(address) == before + 1


@pytest.mark.slow
def test_ten_films_and_refusals_in_the_place_where_one_looks(opened, address, tmp_path):
    page = opened(address, color_scheme="dark")
    text = {"name": "notes.png", "mimeType": "image/png", "buffer": b"a text"}
    cruel = {
        "name": "<img src=x onerror=alert(1)>_R.png",
        "mimeType": "image/png",
        "buffer": knee(0),
    }
    page.set_input_files("#files", [*films(*(10 * (i % 5) for i in range(10))), text, cruel])
    page.wait_for_selector("text=12 films in this sitting, 1 with a refusal.")
    listed = page.locator("#list button .found").all_inner_texts()
    # By name: that of markup comes first.
    assert listed == ["R: KL grade 0", *(f"R: KL grade {i % 5}" for i in range(10)), "refused"]
    page.click("text=notes.png")
    assert page.locator(".problem").inner_text() == (
        "Refused: neither a film (DICOM) nor a picture (PNG, JPEG, TIFF): no DICOM preamble and no "
        "DICOM element at its start; give a film"
    )
    assert page.locator("#tools").is_hidden()
    assert page.locator("#list img").count() == 0
    with page.expect_download() as download:
        page.click("#csv")
    with open(download.value.path(), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["kl_pred"] for row in rows] == ["0", *(str(i % 5) for i in range(10)), ""]
    with page.expect_download() as download:
        page.click("#html")
    assert download.value.suggested_filename == "graded.html"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
    page.screenshot(path=tmp_path / "refused.png", full_page=True)
    page.click("#clear")
    page.click("text=Clear it for good")
    assert page.locator("#sitting").is_hidden()


@pytest.mark.slow
def test_further_films_and_doubts_are_seen_at_once(opened, address):
    page = opened(address)
    page.set_input_files("#files", films(0))
    page.wait_for_selector("text=1 film in this sitting.")
    assert page.locator("#place").inner_text() == "1 of 1"
    assert page.locator("#next").is_disabled()
    wrong = {"name": "wrong_L.png", "mimeType": "image/png", "buffer": knee(20)}
    page.set_input_files("#files", [wrong])
    page.wait_for_selector("text=2 films in this sitting, 1 in doubt.")
    assert page.locator("#place").inner_text() == "1 of 2"
    found = page.locator("#list button .found").all_inner_texts()
    assert found == ["R: KL grade 0", "L: KL grade 2, in doubt"]
    page.click("#next")
    doubt = page.locator("figure .caution")
    assert "Doubt: it looks like a right knee" in doubt.inner_text()
    assert doubt.bounding_box()["y"] < page.locator("figure canvas").bounding_box()["y"]
    assert page.locator("#next").is_disabled()


@pytest.mark.slow
def test_what_no_server_has_seen_is_not_refused_and_can_be_sent_again(opened, address):
    page = opened(address)
    page.wait_for_selector("text=Model: means")
    page.route("**/jobs", lambda route: route.abort())
    page.set_input_files("#files", films(20))
    page.wait_for_selector("text=1 film in this sitting, 1 not sent.")
    page.unroute("**/jobs")
    page.click("text=Try again")
    page.wait_for_selector("text=1 film in this sitting.")
    assert page.locator("#list button .found").inner_text() == "R: KL grade 2"


@pytest.mark.slow
def test_what_a_folder_brings_along_is_summed_up_and_in_the_table(opened, address, tmp_path):
    folder = tmp_path / "2019" / "study"
    folder.mkdir(parents=True)
    (folder / "a_R.png").write_bytes(knee(10))
    (folder / "table.csv").write_text("file,kl\na_R.png,1\n")
    (folder / "b.txt").write_text("a text")
    (folder / "z.dcm.pts").write_text("n_points: 74")
    page = opened(address)
    page.wait_for_selector("text=Model: means")
    page.set_input_files("#folder", tmp_path / "2019")
    page.wait_for_selector("text=1 film in this sitting.")
    assert page.locator("#list button").inner_text() == "a_R.png\n2019/study\nR: KL grade 1"
    assert page.locator("#film-title").get_attribute("title") == "2019/study/a_R.png"
    # Chromium's choice of a folder leaves hidden files out, a drop does not.
    hidden = {"name": ".DS_Store", "mimeType": "", "buffer": b"\0\0\0\1Bud1"}
    page.set_input_files("#files", [hidden])
    page.click("#strays summary")
    assert page.locator("#strays summary").inner_text() == "4 files are no pictures"
    told = dict(t.split("\n") for t in page.locator("#strays li").all_inner_texts())
    assert told[".DS_Store"] == "hidden, not sent"
    assert told["2019/study/z.dcm.pts"].startswith("landmarks of no film that is here, not sent")
    assert told["2019/study/b.txt"] == "neither a film nor a picture"
    with page.expect_download() as download:
        page.click("#csv")
    with open(download.value.path(), encoding="utf-8") as file:
        status = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert status == {
        "2019/study/a_R.png": "",
        "2019/study/b.txt": "not_dicom",
        "2019/study/table.csv": "not_dicom",
    }
    page.click("#clear")
    page.click("text=Clear it for good")
    assert page.locator("#sitting").is_hidden()


@pytest.mark.slow
def test_evidence_has_a_scale_a_class_and_an_opacity(opened, address):
    page = opened(address)
    page.set_input_files("#files", films(30))
    page.wait_for_selector("figure canvas")
    assert page.locator(".legend").is_hidden()
    assert page.locator("#opacities").is_hidden()
    page.click("#heat")
    legend = page.locator(".legend")
    assert legend.inner_text() == "Evidence for KL grade 3: none  most, in this knee"
    assert legend.locator("img").bounding_box()["width"] > 50
    row = page.request.get(
        f"{address}/jobs/{json.loads(page.evaluate('sessionStorage.jobs'))[0]}/results.json"
    ).json()["rows"][0]
    share = f"{100 * row['kl_confidence']:.0f} %"
    words = page.locator("figure > .soft").inner_text()
    assert f"about {share} of those with such a confidence were graded right" in words

    def middle():
        page.wait_for_timeout(100)
        return page.evaluate(
            """() => {
              const shown = document.querySelector("canvas");
              const one = document.createElement("canvas");
              one.width = one.height = 1;
              const context = one.getContext("2d", { willReadFrequently: true });
              context.drawImage(shown, -shown.width / 2, -shown.height / 2);
              return [...context.getImageData(0, 0, 1, 1).data];
            }"""
        )

    def colour():
        red, green, blue, _ = middle()
        return max(red, green, blue) - min(red, green, blue)

    page.click("#landmarks")
    strong = colour()
    page.locator("#opacity").fill("20")
    weak = colour()
    page.locator("#opacity").fill("0")
    assert strong > weak > colour() == 0


def test_heat_has_the_colours_of_the_report():
    stops = re.search(r"const HEAT = (\[\[.*?\]\]);", (PAGE / "view.js").read_text())[1]
    colours = np.array(json.loads(stops))
    expected = pictures._heat_colours(np.linspace(0, 1, len(colours))[None])[0]
    assert np.abs(colours - expected).max() <= 4


@pytest.mark.slow
def test_a_left_knee_lies_as_in_its_file(opened, address):
    """Its light corner, which is lateral, is at the right, and so is the word."""
    page = opened(address)
    page.set_input_files(
        "#files", [{"name": "a_L.png", "mimeType": "image/png", "buffer": knee(0, "L")}]
    )
    page.wait_for_selector("figure canvas")
    page.click("#landmarks")
    page.wait_for_timeout(300)
    data = page.evaluate("document.querySelector('canvas').toDataURL()").partition(",")[2]
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_GRAYSCALE)
    file = cv2.imdecode(np.frombuffer(knee(0, "L"), np.uint8), cv2.IMREAD_GRAYSCALE)
    rows = round(0.9 * len(file))  # Below are the words.
    seen = cv2.resize(shown, file.shape[::-1], interpolation=cv2.INTER_AREA)[:rows]
    likeness, mirrored = (
        np.corrcoef(seen.ravel(), each[:rows].ravel())[0, 1] for each in (file, file[:, ::-1])
    )
    assert likeness > 0.95 > mirrored


@pytest.mark.slow
def test_the_whole_film_is_shown_with_its_regions(opened, address, tmp_path):
    study.write_study(tmp_path / "tree", num_subjects=1, visits=(0,), rows=512, progress=False)
    (film,) = (tmp_path / "tree").rglob("001")
    page = opened(address)
    page.set_input_files("#files", films(0))
    page.wait_for_selector("text=1 film in this sitting.")
    page.wait_for_selector("figure canvas")
    page.wait_for_timeout(300)
    assert page.locator("#wholes").is_hidden(), "a crop is whole"
    page.set_input_files("#files", [film, film.with_name("001.pts"), film.with_name("001_f.pts")])
    page.wait_for_selector("text=2 films in this sitting.")
    page.keyboard.press("n")
    page.wait_for_selector("#wholes:not([hidden])")
    page.keyboard.press("w")
    canvas = page.locator(".whole canvas")
    canvas.wait_for()
    size, stored = canvas.bounding_box(), pydicom.dcmread(film)
    assert size["width"] / size["height"] == pytest.approx(stored.Columns / stored.Rows, rel=0.02)
    page.wait_for_timeout(200)
    data = page.evaluate("document.querySelector('.whole canvas').toDataURL()").partition(",")[2]
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_GRAYSCALE)
    for job in json.loads(page.evaluate("sessionStorage.jobs"))[1:]:
        for number in range(2):
            told = page.request.get(f"{address}/jobs/{job}/knees/{number}").json()
            corners = np.array(told["corners"]) * shown.shape[::-1]
            # Half way along the lower edge, which is drawn white.
            x, y = np.rint(np.sort(corners[corners[:, 1].argsort()[2:]], axis=0).mean(0)).astype(
                int
            )
            assert shown[y - 3 : y + 4, x].max() > 240
    page.keyboard.press("w")
    assert canvas.count() == 0


@pytest.mark.slow
def test_it_fits_a_phone(opened, address, tmp_path):
    page = opened(address, viewport={"width": 390, "height": 844}, has_touch=True)
    page.wait_for_selector("text=Model: means")
    assert page.evaluate(TOO_WIDE) == 0
    long = {"name": f"{'a' * 150}_R.png", "mimeType": "image/png", "buffer": knee(0)}
    page.set_input_files("#files", [*films(0), long])
    page.wait_for_selector("text=2 films in this sitting.")
    page.click("#next")
    page.wait_for_selector("figure canvas")
    assert page.locator("#place").inner_text() == "2 of 2"
    page.click("#previous")
    page.wait_for_selector("figure canvas")
    assert page.evaluate(TOO_WIDE) == 0
    # The film comes before the list, and a long name is shortened in its middle, told whole below.
    film, names = (page.locator(at).bounding_box()["y"] for at in ("figure canvas", "#list"))
    assert film < 844 - 250
    assert film < names
    title = page.locator("#film-title")
    assert re.fullmatch(r"a+….*_R\.png", title.inner_text())
    assert title.get_attribute("title") == long["name"]
    assert page.locator("#path").text_content() == long["name"]
    page.screenshot(path=tmp_path / "phone.png", full_page=True)


@pytest.mark.slow
def test_the_keyboard_suffices(opened, address):
    page = opened(address)
    page.wait_for_selector("text=Model: means")

    def focused():
        return page.evaluate("document.activeElement.id || document.activeElement.textContent")

    def tab_to(name):
        for _ in range(40):
            page.keyboard.press("Tab")
            if focused() == name:
                return
        raise AssertionError(f"the keyboard does not reach {name}")

    tab_to("files")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('#files + label')).outlineStyle")
        == "solid"
    )
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(films(10, 40))
    page.wait_for_selector("text=2 films in this sitting.")
    assert page.locator("#film-title").inner_text() == "knee_0_R.png"
    page.keyboard.press("n")
    assert page.locator("#film-title").inner_text() == "knee_1_R.png"
    page.keyboard.press("e")
    assert page.is_checked("#heat")
    page.keyboard.press("p")
    tab_to("opacity")
    page.keyboard.press("ArrowLeft")
    assert page.input_value("#opacity") == "79"
    tab_to("level")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#level") == "129"
    tab_to("csv")
    with page.expect_download():
        page.keyboard.press("Enter")
    page.keyboard.press("+")
    page.wait_for_selector("figure canvas")
    canvas = page.locator("figure canvas")
    canvas.focus()
    before = page.evaluate("document.querySelector('canvas').toDataURL()")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.querySelector('canvas').toDataURL()") != before


@pytest.mark.slow
def test_the_models_card_is_on_the_page(opened, address):
    page = opened(address)
    page.click("#card summary")
    page.wait_for_selector("text=a model that reads brightness")


@pytest.mark.slow
def test_a_token_is_asked_for_and_the_server_ends_well(opened, started):
    process, address, folder = started(TOKEN)
    page = opened(address)
    for word in ("wrong-wrong-wrong-wrong", TOKEN):
        page.wait_for_selector("#token:not([hidden])")
        page.fill("#word", word)
        page.keyboard.press("Enter")
    page.wait_for_selector("text=Model: means")
    page.set_input_files("#files", films(20))
    page.wait_for_selector("figure canvas")
    assert page.locator("#list button span").inner_text() == "R: KL grade 2"
    page.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert [path.name for path in folder.iterdir() if path.name.startswith("knee_jax")] == []


def test_the_policy_has_no_way_round():
    policy = HEADERS["Content-Security-Policy"]
    assert not re.search(r"unsafe|\*|https?:", policy)
