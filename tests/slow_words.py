"""The words of a caption, found in plain Python."""

import unicodedata

UNSPACED = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def words(text):
    """Return the runs of letters, marks and digits in folded case; in scripts without spaces each character is a word."""
    found, word = [], ""
    for character in text:
        letter = unicodedata.category(character)[0] in "LMN"
        alone = letter and unicodedata.name(character, "").startswith(UNSPACED)
        if word and (alone or not letter):
            found.append(word)
            word = ""
        if alone:
            found.append(character.casefold())
        elif letter:
            word += character.casefold()
    return [*found, word] if word else found
