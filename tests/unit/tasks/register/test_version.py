"""URLs of the pages of a version."""

from tasks.register.version import page_urls


def test_page_urls_hold_no_credentials_and_open_the_classic_pages() -> None:
    facts = {"tracking_uri": "https://u:p@ml.example.org/x/", "experiment_id": "3", "run_id": "r", "version": "2"}
    links = page_urls({**facts, "model_name": "my model"})
    suffix = "?workflowType=machine_learning"
    assert links == {
        "run": f"https://ml.example.org/x/#/experiments/3/runs/r{suffix}",
        "model card": f"https://ml.example.org/x/#/experiments/3/runs/r/artifacts/model_card.html{suffix}",
        "evaluation": f"https://ml.example.org/x/#/experiments/3/runs/r/artifacts/evaluation.html{suffix}",
        "lineage": f"https://ml.example.org/x/#/experiments/3/runs/r/artifacts/lineage.svg{suffix}",
        "model version": f"https://ml.example.org/x/#/models/my%20model/versions/2{suffix}",
    }
    assert page_urls({**facts, "model_name": "m", "tracking_uri": "sqlite:///x.db"}) == {}
