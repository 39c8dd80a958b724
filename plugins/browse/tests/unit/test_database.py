import pytest

from plugins.browse.database import Database, QueryFailed


def test_a_long_query_is_interrupted(tmp_path):
    database = Database([], tmp_path, seconds=1.0)
    with pytest.raises(QueryFailed, match=r"stopped after"):
        database.value("SELECT count(*) FROM range(100000000000) a, range(100000) b WHERE (a.range * b.range) % 7 = 3")
    assert database.value("SELECT 1") == 1  # the next one runs
    database.close()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO '/tmp/pairmill-browse-test.csv'",
        "SET memory_limit = '64GB'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "ATTACH '/tmp/pairmill-browse-test.db'",
    ],
)
def test_sql_reaches_no_other_file_and_no_setting(sql, tmp_path):
    database = Database([tmp_path], tmp_path)
    with pytest.raises(QueryFailed):
        database.rows(sql)
    database.close()
