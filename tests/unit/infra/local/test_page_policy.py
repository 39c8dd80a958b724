from infra.local.page_policy import POLICY


def test_policy_allows_no_other_server():
    values = {part.split()[0]: part.split()[1:] for part in POLICY.split("; ")}
    own = {"'self'", "'none'", "data:", "blob:", "'unsafe-inline'", "'unsafe-eval'"}
    assert {value for allowed in values.values() for value in allowed} <= own
    assert values["default-src"][0] == "'self'"
