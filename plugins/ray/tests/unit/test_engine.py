"""What a config and the doctor get of Ray where no cluster answers."""

from plugins.ray import cluster, engine
from plugins.ray.engine import RAY, diagnose


def test_doctor_names_the_remedy_where_ray_or_its_head_is_missing(monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    finding = diagnose({})
    assert (finding.ok, "pip install 'pairmill[ray]'" in finding.remedy) == (False, True)
    assert RAY.missing() == finding.detail
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(engine.metadata, "version", lambda name: "2.52")
    finding = diagnose({"ray_address": "127.0.0.1:9"})
    assert "no Ray head answers at 127.0.0.1:9 (ray 2.52 is installed here)" in finding.detail
