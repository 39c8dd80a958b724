import re

import pytest

from plugins.demo.emoji_set import all_wordings, fold_text, load_emoji
from plugins.demo.families import find_families, plain_name, split_held_out

SIGNS = re.compile("[\U0001f3fb-\U0001f3ff\ufe0f\u2640\u2642\u27a1]")


@pytest.fixture(scope="module")
def emojis():
    return load_emoji()


@pytest.fixture(scope="module")
def digests(emojis):
    return {one.text: one.openmoji_svg.read_text(encoding="utf-8") for one in emojis}


@pytest.fixture(scope="module")
def split(emojis, digests):
    return split_held_out(emojis, digests, 0)


def test_split_holds_out_a_fifth_of_the_families(emojis, digests, split):
    everything = [one.text for part in (split.published, split.held_out, split.withheld) for one in part]
    assert sorted(everything) == sorted(one.text for one in emojis)
    assert len(split.held_out) == round(len(find_families(emojis, digests)) / 5) == 330
    outside = (*split.held_out, *split.withheld)
    assert not {digests[one.text] for one in split.published} & {digests[one.text] for one in outside}
    # By signs alone, independent of `plain_sequence`: tone, gender sign, direction.
    plain = [{SIGNS.sub("", one.text).strip("\u200d") for one in part} for part in (split.published, outside)]
    assert not plain[0] & plain[1]
    assert not {plain_name(one.name) for one in split.published} & {plain_name(one.name) for one in outside}


def test_split_holds_out_one_emoji_of_a_family_and_withholds_the_others(emojis, digests, split):
    family_of = {one.text: number for number, each in enumerate(find_families(emojis, digests)) for one in each}
    assert len({family_of[one.text] for one in split.held_out}) == len(split.held_out)
    assert {family_of[one.text] for one in split.withheld} <= {family_of[one.text] for one in split.held_out}
    assert not any(one.toned for one in split.held_out)


def test_no_wording_is_shared_but_a_published_emoji_keeps_its_own_name(split):
    outside = (*split.held_out, *split.withheld)
    shared = all_wordings(split.published) & all_wordings(outside)
    assert not shared - {fold_text(one.name) for one in (*split.published, *outside)}
    held_out_names = {fold_text(one.name) for one in outside}
    assert not held_out_names & {
        fold_text(text) for one in split.published for text in (*one.wordings, *one.names.values())
    }
