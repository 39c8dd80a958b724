"""URLs of the pages of a version."""

from dataops.facts import RegisterFacts
from tasks.register.registration import page_urls


def test_page_urls_hold_no_credentials_and_open_the_classic_pages() -> None:
    facts = RegisterFacts(
        model_uri="models:/my model/2", model_name="my model", version="2", run_id="r", experiment_id="3",
        tracking_uri="https://u:p@ml.example.org/x/",
    )  # fmt: skip
    links = page_urls(facts)
    suffix = "?workflowType=machine_learning"
    runs = "https://ml.example.org/x/#/experiments/3/runs"
    assert links["run"] == f"{runs}/r{suffix}"
    assert links["runs"] == f"{runs}?viewStateShareKey=pairmill&workflowType=machine_learning"
    assert links["model version"] == f"https://ml.example.org/x/#/models/my%20model/versions/2{suffix}"
    artefacts = {name: link for name, link in links.items() if name not in ("run", "runs", "model version")}
    assert artefacts == {
        "model card": f"{runs}/r/artifacts/model_card.html{suffix}",
        "evaluation": f"{runs}/r/artifacts/evaluation.html{suffix}",
        "dataset": f"{runs}/r/artifacts/dataset.html{suffix}",
        "filter report": f"{runs}/r/artifacts/filter.html{suffix}",
        "download report": f"{runs}/r/artifacts/download.html{suffix}",
        "config": f"{runs}/r/artifacts/config.json{suffix}",
    }
    assert page_urls(facts.model_copy(update={"tracking_uri": "sqlite:///x.db"})) == {}
