"""Strings and images are found in every form in which reports write them, and overwritten without a change of size."""

import base64
import hashlib
import json

import pytest
from jinja2 import Environment

from dataops.escaping import escape_markdown
from plugins.erasure.text_search import BESIDE, TextSearch

URL = 'http://h.example/a"b&c/1.jpg?x=1&y=<2>'
CAPTION = "Jane O'Neil & <sons> at the harbour \\ é 赤い"
IMAGE = bytes(range(256)) * 4


def search():
    return TextSearch([URL], [CAPTION, "Jane Roe"], {hashlib.sha256(IMAGE).hexdigest(): len(IMAGE)})


FORMS = {
    "text": lambda text: text,
    "json": json.dumps,
    "json in Unicode": lambda text: json.dumps(text, ensure_ascii=False),
    "page": lambda text: Environment(autoescape=True).from_string("<li>{{ x }}</li>").render(x=text),
    "json in a page": lambda text: Environment(autoescape=True).from_string("<p>{{ x|tojson }}</p>").render(x=text),
    "markdown": lambda text: f"| {escape_markdown(text)} |",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", [URL, CAPTION])
def test_text_is_found_and_overwritten_in_each_form(form, text):
    data = ("before " * 999 + FORMS[form](text) + " after").encode()
    assert len(search().find(data)) == 1
    redacted = search().redact(data)
    assert len(redacted) == len(data)
    assert search().find(redacted) == []
    assert b"harbour" not in redacted and b"a%22b" not in redacted  # noqa: PT018


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"see http://h.example/1.jpg.", True),
        (b'"http://h.example/1.jpg"', True),
        (b"http://h.example/1.jpg", True),
        (b"http://h.example/1.jpg.webp", False),
        (b"http://h.example/1.jpg?w=9", False),
        (b"http://h.example/1.jpg/2", False),
        (b"<b>cat</b>", False),
        (b'{"caption": "Jane Roe"}', True),
        (b"<li> Jane Roe </li>", True),
        (b"Jane Roe and Jack", False),
    ],
)
def test_url_ends_where_it_ends_and_a_short_caption_is_a_whole_string(data, found):
    assert bool(TextSearch(["http://h.example/1.jpg"], ["Jane Roe", "cat and a dog"], {}).find(data)) == found


@pytest.mark.parametrize("name", ["evaluations/0/page.html", "train/0/tokenizer.json", "models/0/vocab.json"])
def test_short_caption_is_not_found_where_it_may_be_a_class_or_a_token(name):
    assert search().find(b"<td>Jane Roe</td>", name) == []
    assert len(search().find(b"<td>Jane Roe</td>", "filter.html")) == 1


def test_caption_that_may_be_the_name_of_a_stage_is_found_beside_its_image_only():
    search = TextSearch([URL], ["train", "2026-11", "Train", "night train"], {})
    assert search.redact(b'"train", "Train", "night train"') == b'"train", "-----", "-----------"'
    row, stage = f"<a>{URL}</a><td>train</td>".encode(), b"<td>train</td>".center(3 * BESIDE)
    found = search.redact(row + stage, "pack/0/dataset.html")
    assert found == row.replace(URL.encode(), b"-" * len(URL)).replace(b"train", b"-----") + stage
    assert search.redact(stage + row, "pack/0/DATASET.md") == stage + found.removesuffix(stage)


def test_short_caption_is_found_beside_its_image_only_in_a_file_that_does_not_quote_pairs():
    search = TextSearch(["http://h.example/1.jpg"], ["Jane Roe"], {})
    far = b'"Jane Roe"' + b" " * BESIDE
    assert search.find(far, "services/mlflow/mlflow.db") == []
    found = search.find(far + b'"http://h.example/1.jpg", "Jane Roe"', "services/mlflow/mlflow.db")
    assert [(span.what, span.start > BESIDE) for span in found] == [("URL", True), ("caption", True)]


def test_image_is_found_in_a_data_url_only_if_its_bytes_are_equal():
    url = b'<img src="data:image/jpeg;base64,' + base64.b64encode(IMAGE) + b'">'
    (span,) = search().find(url)
    assert span.what == "image"
    assert search().find(search().redact(url)) == []
    assert search().find(b'"data:image/jpeg;base64,' + base64.b64encode(IMAGE[1:]) + b'"') == []
