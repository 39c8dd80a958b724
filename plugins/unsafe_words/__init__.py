"""The rule `unsafe`: `filter.unsafe_languages` drops captions with words of the lists of unsafe words."""
