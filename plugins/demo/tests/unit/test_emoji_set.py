import pytest

from plugins.demo.emoji_set import fold_text, load_emoji, stable_hash


@pytest.fixture(scope="module")
def emojis():
    return load_emoji()


def test_the_set_has_all_emoji_with_two_images_and_a_name(emojis):
    assert len(emojis) == 3944
    assert all(one.openmoji_svg.is_file() and one.twemoji_png.is_file() for one in emojis)
    assert all(len(one.names) == 13 for one in emojis)
    assert len({one.name.casefold() for one in emojis}) == 3944


def test_files_named_without_variation_selectors_are_found(emojis):
    by_name = {one.name: one for one in emojis}
    assert by_name["airplane"].hexcode == "2708"
    assert by_name["airplane"].twemoji_png.name == "2708.png"
    assert by_name["keycap #"].hexcode == "0023-FE0F-20E3"
    assert by_name["keycap #"].twemoji_png.name == "23-20e3.png"


def test_skin_tones_are_recognised_and_keep_their_group(emojis):
    toned = [one for one in emojis if one.toned]
    assert len(toned) > 1500
    assert all("skin tone" in one.name for one in toned)
    assert {one.group for one in toned} == {"People & Body"}


def test_other_wordings_differ_from_the_name(emojis):
    for one in emojis:
        assert fold_text(one.name) not in {fold_text(wording) for wording in one.wordings}


def test_stable_hash_is_a_fixed_function():
    assert stable_hash(0, "split", "😀") == stable_hash(0, "split", "😀")
    assert len({stable_hash(seed, purpose, "😀") for seed in (0, 1) for purpose in ("split", "oddity")}) == 4


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Flag for Timor-Leste", "flag_for_timor leste", True),
        ("Côte d’Ivoire", "cote d'ivoire", False),
        ("keycap #", "keycap *", False),
    ],
)
def test_fold_text(one, other, same):
    assert (fold_text(one) == fold_text(other)) is same
