"""The application asked: what it answers, what it refuses, and that nothing leaves the index's photos."""

import io
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from index_photos import write_photo, write_photos, written_run
from xattn.index.adding import add_photos
from xattn.index.asking import search_index
from xattn.index.photo_index import create_index
from xattn.index.removing import remove_photos

pytest.importorskip("lancedb")
pytest.importorskip("starlette")
testclient = pytest.importorskip("starlette.testclient")

from xattn.serve import app as application  # noqa: E402 - needs starlette
from xattn.serve.app import make_app  # noqa: E402
from xattn.serve.openapi import description  # noqa: E402


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", 6)
    write_photo(tmp_path / "photos" / "<b>bold & odd.png", 77)
    return tmp_path / "photos"


@pytest.fixture
def index(tmp_path, photos, configured):
    made = create_index(tmp_path / "index", written_run(tmp_path / "run", configured))
    captions = tmp_path / "captions.csv"
    captions.write_text("image,caption\n000.png,<script>alert(1)</script>\nmore/001.png,a cat\n")
    add_photos(made, [photos], captions=captions, progress=lambda *_: None)
    return made


@pytest.fixture
def client(index):
    return testclient.TestClient(make_app(index), base_url="http://localhost", raise_server_exceptions=False)


def conforms(value, schema):
    """Whether a value has the form that a schema of the description says."""
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema["type"]
    if kind == "object":
        if "properties" not in schema:
            return isinstance(value, dict)
        return value.keys() == set(schema["required"]) == schema["properties"].keys() and all(
            conforms(value[name], each) for name, each in schema["properties"].items()
        )
    if kind == "array":
        return isinstance(value, list) and all(conforms(each, schema["items"]) for each in value)
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
    return isinstance(value, kinds[kind])


def schema_of(address, status="200"):
    (content,) = description()["paths"][address]["get"]["responses"][status]["content"].values()
    return content["schema"]


def test_a_search_answers_what_the_command_finds(client, index):
    answer = client.get("/api/search", params={"q": "a red dog", "top": 4})
    assert answer.status_code == 200
    found = answer.json()
    assert conforms(found, schema_of("/api/search"))
    (expected,) = search_index(index, ["a red dog"], top=4)
    assert [hit["name"] for hit in found["hits"]] == [hit.name for hit in expected.hits]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in expected.hits], abs=1e-5)
    assert (found["words"], found["photos"], found["scored"]) == (["red", "dog"], 7, 7)
    assert found["unknown"] == []
    assert client.get("/api/search", params={"q": "a zebra"}).json()["unknown"] == ["zebra"]


def test_a_word_lights_up_the_region_of_its_largest_weight(client, index):
    hit = client.get("/api/search", params={"q": "a red dog", "top": 1}).json()["hits"][0]
    (found,) = search_index(index, ["a red dog"], top=1)
    model, (ids,) = index.run.model, index.run.encoded(["a red dog"]).ids
    with torch.no_grad():
        caption = model.encode_captions(torch.tensor([ids]), torch.tensor([len(ids)]))
        weights = model.attend(found.images, caption, "t2i").weights[0]
    (row,) = found.rows.to_pylist()
    for place, region in zip((2, 3), hit["regions"], strict=True):  # of <start> a red dog <end>
        assert region["weight"] == pytest.approx(weights[place].max().item(), abs=1e-4)
        assert region["box"] == pytest.approx(row["boxes"][int(weights[place].argmax())], abs=1e-4)


def test_an_exploration_of_a_photo(client, index):
    hit = client.get("/api/search", params={"q": "a red dog", "top": 1}).json()["hits"][0]
    found = client.get("/api/explore", params={"q": "a red dog", "photo": hit["photo"]})
    assert found.status_code == 200
    (caption,) = found.json()["captions"]
    assert [word["text"] for word in caption["pair"]["words"]] == ["<start>", "a", "red", "dog", "<end>"]
    assert caption["pair"]["runs"][0]["score"] == pytest.approx(hit["score"], abs=1e-5)
    np.testing.assert_allclose(np.sum(caption["pair"]["runs"][0]["attention"]["t2i"], axis=1), 1, atol=2e-3)


def test_photos_are_small_and_encoded_again(client, index, photos):
    hit = client.get("/api/search", params={"q": "a", "top": 1}).json()["hits"][0]
    answer = client.get(f"/api/photos/{hit['photo']}", params={"side": 32})
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert max(image.size) == 32
    again = client.get(f"/api/photos/{hit['photo']}", params={"side": 32})
    assert again.content == answer.content


def test_a_photo_that_is_gone_or_has_changed_or_is_no_photo_any_more(client, index, photos, tmp_path):
    hits = {hit["name"]: hit for hit in client.get("/api/search", params={"q": "a"}).json()["hits"]}
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (photos / "000.png").unlink()
    (photos / "000.png").symlink_to(secret)
    write_photo(photos / "003.png", 90)
    (photos / "more" / "001.png").unlink()
    for name, said in (("000.png", "has changed"), ("003.png", "has changed"), ("001.png", "is not there any more")):
        for address in (f"/api/photos/{hits[name]['photo']}", f"/api/explore?q=a&photo={hits[name]['photo']}"):
            answer = client.get(address)
            assert answer.status_code == 404
            assert conforms(answer.json(), schema_of("/api/explore", "404"))
            assert said in answer.json()["error"]
            assert str(tmp_path) not in answer.text
    assert client.get("/api/search", params={"q": "a"}).status_code == 200  # which reads no photo


def test_the_index_may_grow_and_shrink_meanwhile(client, index, photos, tmp_path):
    add_photos(index, write_photos(tmp_path / "new", 3, first=200), progress=lambda *_: None)
    assert client.get("/api/index").json() == {"photos": 10, "run": index.run.name}
    assert len(client.get("/api/search", params={"q": "a", "top": 100}).json()["hits"]) == 10
    hit = client.get("/api/search", params={"q": "a", "top": 1}).json()["hits"][0]
    path = next(
        path for path in (*photos.rglob("*.png"), *(tmp_path / "new").rglob("*.png")) if path.name == hit["name"]
    )
    remove_photos(index, [path])
    assert client.get(f"/api/photos/{hit['photo']}").status_code == 404
    assert hit["name"] not in [each["name"] for each in client.get("/api/search", params={"q": "a"}).json()["hits"]]
    shutil.move(index.folder, tmp_path / "elsewhere")
    gone = client.get("/api/search", params={"q": "a"})
    assert gone.status_code == 400
    assert "there is no such index" in gone.json()["error"]


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/api/search", 400, "q must be a sentence"),
        ("/api/search?q=%20", 400, "q must be a sentence"),
        (f"/api/search?q={'a' * 501}", 400, "q has 501 letters, and at most 500 are taken"),
        ("/api/search?q=a&top=0", 400, "top must be a whole number from 1 to 100"),
        ("/api/search?q=a&top=101", 400, "top must be a whole number"),
        ("/api/search?q=a&top=1e2", 400, "top must be a whole number"),
        ("/api/search?q=a&exact=yes", 400, "exact must be true or false"),
        (f"/api/search?q=a&text={'b' * 501}", 400, "text has more than 500 letters"),
        ("/api/search?q=a&text=%22%28", 200, None),
        ("/api/search?q=%00%1b%5b31m%ff", 200, None),
        (f"/api/search?q={'word%20' * 80}", 200, None),
        ("/api/photos/../../etc/passwd", 404, "there is nothing at"),
        ("/api/photos/%2e%2e%2fetc%2fpasswd", 404, "there is nothing at"),
        ("/api/photos/passwd", 400, "a photo is named by the 64 hexadecimal digits"),
        (f"/api/photos/{'0' * 64}", 404, "the index has no photo 000"),
        (f"/api/photos/{'0' * 64}?side=100000", 400, "side must be a whole number from 32 to 1600"),
        ("/api/explore?q=a&photo=' OR 1=1", 400, "a photo is named by"),
        ("/none", 404, "there is nothing at /none"),
    ],
)
def test_bad_requests(client, address, status, said):
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    if said is not None:
        assert said in answer.json()["error"]


def test_requests_only_read(client):
    for method in ("post", "put", "delete", "patch"):
        answer = getattr(client, method)("/api/search?q=a")
        assert answer.status_code == 405
        assert answer.json() == {"error": "only GET is answered here"}


def test_no_other_name_is_answered(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"host": "localhost:8765", "x-forwarded-host": "evil.example"}).status_code == 200


def test_every_answer_says_what_a_browser_may_do_with_it(client):
    for address in ("/", "/page.js", "/page.css", "/explorer.js", "/api/index", "/none", "/api/search"):
        headers = client.get(address).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_description_has_every_address(client):
    described = client.get("/api/openapi.json").json()
    assert described == description()
    routes = {route.path for route in client.app.routes if route.path.startswith("/api/")}
    assert set(described["paths"]) == routes
    assert conforms(client.get("/api/index").json(), schema_of("/api/index"))
    parameters = described["paths"]["/api/search"]["get"]["parameters"]
    assert {each["name"] for each in parameters} == {"q", "top", "text", "exact"}


def test_fifty_at_once(client):
    def ask(number):
        return client.get("/api/search", params={"q": ("a red dog", "water")[number % 2], "top": 3})

    with client, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    assert [answer.status_code for answer in answers] == [200] * 50
    assert len({answer.text for answer in answers}) == 2


def test_what_is_too_much_is_refused(index, monkeypatch):
    monkeypatch.setattr(application, "SEARCHES", {"at_once": 1, "waiting": 1, "seconds": 0.05})
    monkeypatch.setattr(application, "search_answer", lambda *_: time.sleep(0.4))
    client = testclient.TestClient(make_app(index), base_url="http://localhost")
    with client, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.get("/api/search?q=a"), range(4)))
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["error"] for answer in answers} <= {"too many requests wait", "it took longer than 0.05 s"}
    assert answers[0].headers["retry-after"] == "2"


def test_a_fault_of_ours_tells_nothing_of_the_machine(index, monkeypatch):
    def broken(*_):
        raise RuntimeError(str(Path.home()))

    monkeypatch.setattr(application, "search_answer", broken)
    client = testclient.TestClient(make_app(index), base_url="http://localhost", raise_server_exceptions=False)
    answer = client.get("/api/search?q=a")
    assert answer.status_code == 500
    assert answer.json() == {"error": "this request could not be answered (RuntimeError)"}
