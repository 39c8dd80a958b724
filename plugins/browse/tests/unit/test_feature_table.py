import numpy as np
import pytest

from dataops.errors import CorruptPart
from plugins.browse.feature_table import FeatureTable, best, image_ids, preparation_digest
from tests.manifests import build_manifest


def unit(rows, seed=0, dimensions=8):
    values = np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def ids(*numbers):
    return image_ids([f"{number:032x}{0:032x}" for number in numbers])


def test_features_are_kept_by_the_digest_of_the_image(tmp_path):
    features = unit(4)
    FeatureTable(tmp_path / "t").add(ids(5, 6, 7), features[:3])
    table = FeatureTable(tmp_path / "t")
    table.add(ids(8), features[3:])
    assert (len(table), table.dimensions) == (4, 8)
    np.testing.assert_array_equal(table.features(), features)
    assert table.locate(ids(8, 9, 5, 8)).tolist() == [3, -1, 0, 3]


def test_damaged_and_other_features_are_refused(tmp_path):
    table = FeatureTable(tmp_path / "t")
    table.add(ids(1, 2), unit(2))
    with pytest.raises(CorruptPart, match="features of 8 values"):
        table.add(ids(3), unit(1, dimensions=4))
    (tmp_path / "t" / "features.f32").write_bytes(b"")
    with pytest.raises(CorruptPart, match="delete it"):
        table.features()


def test_search_is_exact(tmp_path):
    table, features = FeatureTable(tmp_path / "t"), unit(50)
    positions = np.array([49, -1, *range(20), 3])
    query = unit(1, seed=9)[0]
    assert table.scores(query, np.array([-1, -1])).tolist() == [-2, -2]
    table.add(ids(*range(1, 51)), features)
    scores = table.scores(query, positions)
    expected = np.where(positions < 0, -2, features[positions] @ query)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert best(scores, 5).tolist() == sorted(range(len(positions)), key=lambda n: (-scores[n], n))[:5]


def test_settings_that_change_the_images_change_the_table():
    config = {"image_size": 224, "encode_quality": 95, "timeout": 10}
    digests = [
        preparation_digest(build_manifest("download", config=config | changed))
        for changed in ({}, {"timeout": 20}, {"image_size": 64}, {"encode_quality": 80})
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
