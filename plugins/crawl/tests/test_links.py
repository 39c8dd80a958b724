from plugins.crawl.links import extract_links

URL = "http://a.example/dir/page.html"


def links(html):
    return extract_links(html.encode(), URL, "pairmill", 200)


def test_extract_links_returns_canonical_urls_once():
    found = links(
        """<a href=one>1</a><a href="/two#x">2</a><a href="HTTP://A.example:80/two">again</a><area href="//b.example">
        <link rel="next" href="?page=2"><link rel=stylesheet href=style.css><a name=no>no</a><img src=i.jpg><a href>self</a>
        <a href="javascript:x()">j</a><a href="http://[bad">b</a><a href="/%s">long</a>"""
        % ("x" * 300)
    )
    assert found.follow == [
        "http://a.example/dir/one",
        "http://a.example/two",
        "http://b.example/",
        "http://a.example/dir/page.html?page=2",
    ]
    assert found.not_followed == {"bad_url": 2, "not_http": 1, "url_too_long": 1}
    assert not found.directives


def test_extract_links_obeys_nofollow():
    found = links('<a href=a rel="NoFollow ugc">a</a><a href=b rel=nofollowed>b</a>')
    assert (found.follow, found.not_followed) == (["http://a.example/dir/b"], {"nofollow": 1})
    for meta in (
        'name="ROBOTS" content="NoFollow"',
        'name=robots content="none"',
        'name="Pairmill" content="x, nofollow "',
    ):
        found = links(f"<meta {meta}><a href=a>a</a>")
        assert (found.follow, found.not_followed) == ([], {"nofollow": 1})
    assert links('<meta name=robots content="none">').directives == {"none", "noindex", "nofollow"}
    assert links('<meta name=otherbot content="nofollow"><a href=a>a</a>').follow == ["http://a.example/dir/a"]
