import pytest

from tasks.demo.emoji_set import all_wordings, fold, load_emoji, split_held_out, stable_hash


@pytest.fixture(scope="module")
def emojis():
    return load_emoji()


def test_the_set_is_what_has_two_drawings_and_a_name(emojis):
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


def test_skin_tones_are_told_apart_and_placed_with_their_group(emojis):
    toned = [one for one in emojis if one.toned]
    assert len(toned) > 1500
    assert all("skin tone" in one.name for one in toned)
    assert {one.group for one in toned} == {"People & Body"}


def test_other_wordings_are_really_other(emojis):
    for one in emojis:
        assert fold(one.name) not in {fold(wording) for wording in one.wordings}


@pytest.mark.parametrize("seed", [0, 1])
def test_split_holds_out_a_fifth_and_keeps_equal_pictures_on_one_side(emojis, seed):
    pictures = {one.text: one.openmoji_svg.read_text(encoding="utf-8") for one in emojis}
    published, held_out = split_held_out(emojis, pictures, seed)
    assert (len(published), len(held_out)) == (3155, 789)
    assert not {one.text for one in published} & {one.text for one in held_out}
    assert not {pictures[one.text] for one in published} & {pictures[one.text] for one in held_out}


def test_split_depends_on_the_seed(emojis):
    pictures = {one.text: one.text for one in emojis}
    first, second = ({one.text for one in split_held_out(emojis, pictures, seed)[1]} for seed in (0, 1))
    assert len(first & second) < 250


def test_no_wording_is_shared_but_a_published_emoji_keeps_its_own_name(emojis):
    published, held_out = split_held_out(emojis, {one.text: one.text for one in emojis}, 0)
    shared = all_wordings(published) & all_wordings(held_out)
    assert not shared - {fold(one.name) for one in (*published, *held_out)}
    theirs = {fold(one.name) for one in held_out}
    assert not theirs & {fold(text) for one in published for text in (*one.wordings, *one.names.values())}


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
def test_fold(one, other, same):
    assert (fold(one) == fold(other)) is same
