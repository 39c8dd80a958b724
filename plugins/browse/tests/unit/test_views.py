import pyarrow as pa
import pytest

from dataops.snapshot import read_parts
from dataops.trace.requests import make_request, record_request
from dataops.trace.targets import COLUMNS, matching_rows, parse_target
from plugins.browse import views
from plugins.browse.database import Database
from plugins.browse.rows import Selection, count_rows, fetch_row, fetch_rows, list_numbers, list_rows
from plugins.browse.views import Dataset
from tests.unit.tasks.dataset_chain import packed_in, pair, some_pairs


@pytest.fixture
def opened(tmp_path):
    pairs = [*some_pairs()[:12], pair(50, phash="00000000000000ff"), pair(51, page_url="https://Bad.example/x")]
    store, manifests = packed_in(tmp_path / "store", pairs)
    database = Database([store.root], tmp_path)
    return store, manifests, database, Dataset(manifests["pack"], store, database, tmp_path / "copies", -1)


def test_rows_of_a_takedown_are_in_no_view(opened):
    store, manifests, database, dataset = opened
    before = {label: count_rows(database, Selection(dataset.view(label))) for label in dataset.labels}
    targets = ["example.org", "phash:00000000000000fe~2", f"sha256:{4:064x}", "http://host2.example/%32.jpg"]
    wanted = [parse_target(target) for target in [*targets, "host1.example", "bad.example"]]
    for number, target in enumerate(wanted, 1):
        record_request(store, make_request([target], "asked"))
        for label in ("pack.kept", "curate.kept", "curate.dropped"):
            stage, side = label.split(".")
            rows = read_parts(store, manifests[stage], views.SIDES[side])
            matched = matching_rows(rows.select([c for c in COLUMNS if c in rows.column_names]), wanted[:number])
            view = dataset.view(label)
            uids = [row["uid"] for row in list_rows(database, Selection(view))]
            assert sorted(uids) == sorted(rows["uid"].filter(pa.array(~matched)).to_pylist()), (label, target)
            assert view.hides_rows == bool(matched.any())
            assert before[label] == rows.num_rows
    view = dataset.view("pack.kept")
    hidden = set(range(before["pack.kept"])) - set(list_numbers(database, Selection(view)).tolist())
    assert all(fetch_row(database, view, number) is None for number in hidden)
    assert fetch_rows(database, view, list(hidden)) == []
