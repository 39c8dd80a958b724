"""The language detector `fasttext` (`filter.language_detector`)."""
