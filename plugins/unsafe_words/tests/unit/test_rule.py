from dataops.schema import uid
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER
from tests.filter_runs import filtered, some_pairs


def test_captions_with_unsafe_words_are_dropped(tmp_path):
    rows = some_pairs(2)
    for row, caption in zip(rows, ["a nude on the beach", "a red kite"], strict=True):
        row |= {"caption": caption, "uid": uid(row["url"], caption)}
    manifest = filtered(tmp_path / "en", rows, unsafe_languages=["en"])
    assert manifest.counts.dropped == {"unsafe": 1}
    assert manifest.config["plugins"] == {"unsafe": 1}
    assert "glin-profanity" in next(one.digest for one in manifest.inputs if one.key == "unsafe words")
    german = filtered(tmp_path / "de", rows, unsafe_languages=["de"])
    assert not german.counts.dropped, "each language has its own list"
    assert not any(one.key == "unsafe words" for one in FILTER.external_inputs(FilterConfig()))
