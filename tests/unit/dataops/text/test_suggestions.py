from dataops.text.suggestions import did_you_mean, find_closest


def test_the_most_similar_name_is_suggested_whatever_its_case():
    assert find_closest("vit-b-32", ["ViT-B-16", "ViT-B-32", "RN50"]) == "ViT-B-32"
    assert find_closest("colour", ["seed", "name"]) is None
    assert did_you_mean("epoch", ["epochs", "lr"]) == "; did you mean epochs?"
    assert did_you_mean("", []) == ""
    assert find_closest("x" * 1_000_000, ["x" * 90]) == "x" * 90, "the time is bounded"
