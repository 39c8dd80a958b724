import pytest

from plugins.demo.emoji_set import load_emoji


@pytest.fixture(scope="module")
def emojis():
    return load_emoji()


def test_the_set_has_all_emoji_with_two_images_and_a_name(emojis):
    assert len(emojis) == 3944
    assert all(one.openmoji_svg.is_file() and one.twemoji_png.is_file() for one in emojis)
    assert all(len(one.names) == 13 for one in emojis)
    assert len({one.name.casefold() for one in emojis}) == 3944
