"""A registered model is the subject of a document, with its store and without it."""

import pytest

from plugins.disclosure.subject import find_subject

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("register_plugins")]


def test_registered_model_is_found_in_its_store_and_by_its_manifests_in_mlflow(registered, upstream, tmp_path):
    by_stage = {m.stage: m for m in upstream.manifests}
    subject = find_subject("clip-demo@champion", tmp_path, upstream.store.uri)
    assert (subject.name, subject.train) == (registered[0].facts["model_uri"], by_stage["train"])
    assert subject.manifests["evaluate"] == by_stage["evaluate"]
    assert find_subject("clip-demo@champion", tmp_path, None).store is None, "from the manifests in MLflow alone"
