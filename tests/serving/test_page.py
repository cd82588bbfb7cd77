"""The web page and its endpoints, in this process."""

import re
from typing import Any

import pytest

from hdvl.inference import Pipeline
from hdvl.serving.web import FOLDER
from tests.serving.conftest import data_url, png


def test_nothing_of_the_page_comes_from_elsewhere(client: Any) -> None:
    page = client.get("/")
    assert (
        page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    )
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) >= 5
    for path in named:
        found = client.get(path)
        assert path.startswith("/page/") and found.status_code == 200
        assert found.headers["content-type"].split(";")[0] in (
            *("text/css", "text/javascript", "image/svg+xml"),
        )
    for file in FOLDER.iterdir():
        links = re.findall(r"https?://[^\s\"'`)]+", file.read_text())
        assert set(links) <= {"http://www.w3.org/2000/svg"}, file.name


def test_both_languages_have_the_same_messages(client: Any) -> None:
    script = client.get("/page/words.js").text
    english, chinese = (
        re.findall(r"(?<![\w.])(\w+): ?(?:\"|`|\(|name)", part)
        for part in script.split("  zh: {")[0:2]
    )
    assert set(english) - {"en"} == set(chinese) and len(set(chinese)) > 20
    used = re.findall(r'data-(?:text|hint|label)="(\w+)"', client.get("/").text)
    assert set(used) <= set(chinese)


def test_example_images(client: Any) -> None:
    names = client.get("/page/examples").json()
    assert "receipt.png" in names
    assert client.get("/page/examples/tag.png").content[:4] == b"\x89PNG"
    for name in ("none.png", "..%2fdemo.json", "demo.json"):
        assert client.get(f"/page/examples/{name}").status_code == 404
    for name in ("none.js", "..%2fweb.py", "%2e%2e/web.py"):
        assert client.get(f"/page/{name}").status_code == 404


def test_tiles_of_images_are_those_that_are_read(client: Any, pipe: Pipeline) -> None:
    urls = [data_url(png(150, 60)), data_url(png(20, 20))]
    found = client.post("/v1/tiles", json={"model": "tiny", "images": urls}).json()
    plans = [pipe.tiler.plan(150, 60), pipe.tiler.plan(20, 20)]
    for image, plan in zip(found["images"], plans, strict=True):
        assert image["tiles"] == plan.count == len(image["views"])
        assert image["visual_tokens"] == pipe.model.merger.token_count(plan)
        assert [tuple(view["box"]) for view in image["views"]] == [v.box for v in plan.views]
    fewer = client.post("/v1/tiles", json={"images": urls, "max_tiles": 1}).json()
    assert fewer["visual_tokens"] < found["visual_tokens"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": []}, "images"),
        ({"images": [3]}, "images"),
        ({"images": ["data:image/png;base64,AAAA"]}, "image"),
        ({"images": ["http://127.0.0.1/"]}, "not fetched"),
        ({"max_tiles": 0}, "max_tiles must be at least 1"),
        ({"max_tiles": 1000}, "max_tiles must be at most 64"),
        ({"images": [data_url(png())] * 17}, "at most 16 images"),
    ],
)
def test_tiles_that_are_refused(client: Any, change: dict[str, Any], reason: str) -> None:
    body = {"model": "tiny", "images": [data_url(png())], **change}
    said = client.post("/v1/tiles", json=body)
    assert said.status_code == 400 and reason in said.json()["error"]["message"]


def test_openapi_names_the_fields(client: Any) -> None:
    schema = client.get("/openapi.json").json()
    body = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    fields = body["content"]["application/json"]["schema"]["properties"]
    assert {"messages", "max_completion_tokens", "max_tiles", "response_format"} <= set(fields)
