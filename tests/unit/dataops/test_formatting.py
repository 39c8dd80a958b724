from dataops.formatting import format_counts, format_interval, format_percent, format_share


def test_format_percent_takes_decimals_sign_and_a_word_for_none():
    assert format_percent(0.12345) == "12.35%"
    assert format_percent(0.5, decimals=1, sign="") == "50.0"
    assert format_percent(None) == "-"
    assert format_percent(None, missing="") == ""


def test_format_share_returns_none_for_an_empty_whole():
    assert format_share(1, 8) == "12.5%"
    assert format_share(0, 0) == "none"
    assert format_share(0, 0, missing="-") == "-"


def test_format_interval_formats_both_ends():
    assert format_interval(0.1, 0.25) == "10.00% – 25.00%"
    assert format_interval(0.1, 0.25, sign="", dash=" - ") == "10.00 - 25.00"
    assert format_interval(None, None) == "-"


def test_format_counts_keeps_the_order_and_separates_thousands():
    assert format_counts({"language": 1204, "too_small": 673}.items()) == "language 1,204, too_small 673"
    assert format_counts([]) == ""
