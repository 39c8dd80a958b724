from dataops.web.urls import find_registrable_domain


def test_find_registrable_domain():
    hosts = ("www.example.co.uk", "a.b.example.org", "user.github.io", "localhost", "127.0.0.1", "pets.test")
    assert [find_registrable_domain(host) for host in hosts] == [
        "example.co.uk",
        "example.org",
        "user.github.io",
        "localhost",
        "127.0.0.1",
        "pets.test",
    ]
