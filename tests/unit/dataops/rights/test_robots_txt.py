import random
import re

import pytest

from dataops.rights.robots_txt import MAX_RULES, RobotsFile, decode_file
from tasks.download.config import AI_AGENTS
from tests.costs import bounded
from tests.unit.dataops.rights.reference_robots import reference_allows

AGENTS = ("pairmill", "GPTBot", "CCBot", "Google-Extended", "Otherbot")
PIECES = [
    "/", "a", "b", "/a/", "/b/", "ab", "%61", "%2F", "%2f", "%25", "%3F", "%", "%zz", "ü", "%C3%BC", "%c3%bc", "?", "x=1",
    "&", ":", "%3A", ".jpg", "$", "%24", "*", "%2A", "~", "%7e", "index.html", "日", "robots.txt", " ", "+", "=",
]  # fmt: skip
AGENT_LINES = ["User-agent: ", "user-AGENT:", "User-agent\t:\t"]
AGENT_FORMS = ["{}", "{}", "{}", "{}/1.0", "{}*", "{}/2.0 (a; +http://b)", " {} ", "{} # c", '"{}"', "x {}"]
RULE_LINES = ["Allow: ", "Disallow: ", "disallow:", " Disallow : "]
OTHER_LINES = [
    "", "# c", "Crawl-delay: 1", "Unknown: x", "noise", "Sitemap: /s", "Host: a", "User-agent:", "Noindex: /", "Allow /",
    "User-agent GPTBot", "Disallow /a", "Disalow: /b", "User-agent: pairmill Disallow: /", "Content-Usage: train-ai=n",
    "Content-Usage: /a train-ai=y", "Content-Signal: ai-train=no", "License: http://a.test/l.xml",
]  # fmt: skip
REPEATED = [
    " ", "\t", "\r", "\n", "\v", "\\n", "\\", "user-agent", "user-agent ", "user-agent:", "allow ", "\ufeff", "#", "*",
    "a-", "%", "%2", "https://", "crawl-delay:1.", "disallow: *a\n", "user", "\u00a0", "allow:\n", "=", "\ud800", '"',
]  # fmt: skip


def make_path(rng, pieces):
    return "/" + "".join(rng.choices(pieces, k=rng.randrange(6)))


def make_pattern(rng):
    path = make_path(rng, PIECES) if rng.random() < 0.9 else rng.choice(["", "*", "*.jpg$", "a", "private/", "$"])
    return path + rng.choice(["", "", "$", "*", "*$"])


def make_file(rng):
    """Return a file of lines that parsers disagree on."""
    lines = ["Sitemap: http://a.test/s.xml"] if rng.random() < 0.2 else []
    for _ in range(rng.randrange(1, 12)):
        kind = rng.random()
        if kind < 0.4:
            name = rng.choice([*AGENTS, "*", "*"])
            lines.append(rng.choice(AGENT_LINES) + rng.choice(AGENT_FORMS).format(rng.choice([name, name.lower()])))
        else:
            lines.append(rng.choice(RULE_LINES) + make_pattern(rng) if kind < 0.85 else rng.choice(OTHER_LINES))
    return rng.choice(["", "\ufeff"]) + rng.choice(["\n", "\r\n", "\r"]).join(lines)


def test_robots_file_permits_nothing_that_rfc_9309_forbids():
    rng = random.Random(9309)
    forbidden = decisions = 0
    for _ in range(400):
        text = make_file(rng)
        file = RobotsFile.parse(decode_file(text.encode()), AGENTS)
        patterns = re.findall(r"llow ?: ?(/\S*)", text) or ["/"]
        for path in (make_path(rng, PIECES), *(rng.choice(patterns).replace("*", "a") for _ in range(3))):
            for agent in AGENTS:
                decisions += 1
                expected = reference_allows(text.encode(), agent, path)
                forbidden += not expected
                allowed = file.allows(f"http://a.test{path}", agent)
                assert expected or not allowed, (text, agent, path)
    assert decisions == 8_000
    assert forbidden > 600


def test_robots_file_agrees_with_rfc_9309_on_files_without_mistakes():
    rng = random.Random(2022)
    pieces = ["/", "a", "b", "/a/", "ab", "%61", "ü", "%C3%BC", "&", ":", ".jpg", "日"]
    for _ in range(200):
        lines = []
        for _ in range(rng.randrange(1, 5)):
            lines += [f"User-agent: {name}" for name in rng.sample([*AGENTS, "*"], rng.randrange(1, 4))]
            for _ in range(rng.randrange(6)):
                end = rng.choice(["", "", "?x=1", "?*", "$", "*"])
                lines.append(f"{rng.choice(['Allow', 'Disallow'])}: {make_path(rng, [*pieces, '*'])}{end}")
                lines.append(rng.choice(["", "", "# note", "Sitemap: http://a.test/sitemap.xml", "Crawl-delay: 1"]))
        text = "\n".join(lines)
        file = RobotsFile.parse(text, AGENTS)
        everything = RobotsFile.parse(text)
        for _ in range(4):
            path = make_path(rng, pieces) + rng.choice(["", "?x=1&a"])
            for agent in AGENTS:
                expected = reference_allows(text.encode(), agent, path)
                assert file.allows(f"http://a.test{path}", agent) == expected, (text, agent, path)
                assert everything.allows(path, agent) == expected


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffUser-agent: GPTBot\nDisallow: /",
        "ï»¿User-agent: GPTBot\nDisallow: /",
        "User-agent: x\nDisallow:\n\ufeffUser-agent: GPTBot\nDisallow: /",
        "User-agent: GPTBot\rDisallow: /\r",
        "User-agent: GPTBot\vDisallow: /",
        "User-agent: GPTBot\fDisallow: /",
        "User-agent: GPTBot\x85Disallow: /",
        "User-agent: GPTBot\u2028Disallow: /\u2028",
        "User-agent: GPTBot\u2029Disallow: /",
        "User-agent: GPTBot Disallow: /",
        "User-agent: GPTBot\\nDisallow: /",
        "User-agent: *\nDisallow: User-agent: GPTBot Disallow: /",
        "User-agent: GPTBot*\nDisallow: /",
        "User-agent: *GPTBot*\nDisallow: /",
        "User-agent: GPTBot/1.0\nDisallow: /",
        "User-agent: GPTBot/2.0 (https://openai.com/gptbot)\nDisallow: /",
        "User-agent: Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)\nDisallow: /",
        "User-agent: CCBot, GPTBot\nDisallow: /",
        "User-agent: CCBot GPTBot\nDisallow: /",
        'User-agent: "GPTBot"\nDisallow: /',
        "User-agent:\u00a0GPTBot\nDisallow: /",
        "User-agent GPTBot\nDisallow /",
        "User-agent\tGPTBot\nDisallow: /",
        "User-agent = GPTBot\nDisallow = /",
        "User-agent\uff1aGPTBot\nDisallow\uff1a/",
        "User agent: GPTBot\nDisalow: /",
        "User_Agent: GPTBot\nDissallow: /",
        "USERAGENT: gptbot\nDISALLOW: /",
        "User-agents: GPTBot\nDisallow: /",
        "User-agent: GPTBot\nCrawl-delay: 5\nUser-agent: other\nDisallow: /",
        "User-agent: GPTBot\nX-Unknown: 5\n\nUser-agent: other\nDisallow: /",
        "User-agent: GPTBot\nSitemap: /x\nUser-agent: other\nDisallow: /",
        "User-agent: GPTBot\nDisallow: http://a.test/",
        "User-agent: GPTBot\nDisallow: *",
        "User-agent: GPTBot\nAllow: /index.html\nDisallow: /",
        "User-agent: GPTBot\nDisallow: \nUser-agent: x\nDisallow: /a\nUser-agent: GPTBot\nDisallow: /",
    ],
)
def test_list_denied_agents_hears_every_spelling_of_an_opt_out(text):
    for file in (RobotsFile.parse(text), RobotsFile.parse(text, ("pairmill", *AI_AGENTS))):
        denied = file.list_denied_agents("http://a.test/1.jpg", AI_AGENTS, "pairmill")
        assert "GPTBot" in denied
        assert set(denied) <= {"GPTBot", "CCBot"}
        assert file.allows("http://a.test/1.jpg", "pairmill")
        assert file.allows("http://a.test/robots.txt", "GPTBot")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_decode_file_reads_files_of_unicode(encoding):
    text = "User-agent: GPTBot\nDisallow: /bücher\n"
    assert decode_file(text.encode(encoding)) == text


def test_decode_file_keeps_bytes_of_other_encodings():
    file = RobotsFile.parse(decode_file("User-agent: *\nDisallow: /bücher/".encode("latin-1")))
    assert not file.allows("http://a.test/b%FCcher/1.jpg", "pairmill")
    assert file.allows("http://a.test/b%C3%BCcher/1.jpg", "pairmill")
    assert decode_file(b"") == ""
    assert decode_file(b"User-agent: \xe2\x82").startswith("User-agent: ")  # cut at the maximum size


@pytest.mark.parametrize(
    ("rules", "path", "allowed"),
    [
        ("Disallow: /a%2Fb", "/a/b", False),  # the doubt is the owner's
        ("Disallow: /a/b", "/a%2Fb", False),
        ("Disallow: /\nAllow: /a%2Fb", "/a/b", False),
        ("Disallow: /\nAllow: /a/b", "/a%2fb", False),
        ("Disallow: /\nAllow: /a%2Fb", "/a%2fb", True),
        ("Disallow: /\nAllow: /foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar", True),  # RFC 9309
        ("Disallow: /foo/bar/U+E38384\nDisallow: /foo/bar/ツ", "/foo/bar/%E3%83%84", False),
        ("Disallow: /foo/bar/%62%61%7A", "/foo/bar/baz", False),
        ("Disallow: /path/file-with-a-%2A.html", "/path/file-with-a-*.html", False),
        ("Disallow: /path/foo-%24", "/path/foo-$", False),
        ("Disallow: /a$", "/ab", True),
        ("Disallow: /a$b", "/a$bc", False),
        ("Disallow: /a*$", "/ab", False),
        ("Disallow: /**a**b$", "/xaxxb", False),
        ("Disallow: /a*a$", "/a", True),
        ("Disallow: private/", "/private/1.jpg", False),
        ("Disallow: /x\nAllow: /x", "/x", True),
        ("Disallow: /x#y", "/x", False),
        ("Disallow:", "/x", True),
        ("Disallow: /?", "/?a", False),
        ("Disallow: /?", "/", True),
    ],
)
def test_robots_file_matches_paths(rules, path, allowed):
    assert RobotsFile.parse(f"User-agent: *\n{rules}").allows(f"https://a.test:8080{path}#fragment", "p") == allowed


def test_robots_file_reads_the_crawl_delay_of_the_lines_before_it():
    text = (
        "User-agent: *\nCrawl-delay: 5\nUser-agent: a\nCrawl-delay: 100\nDisallow: /x\nUser-agent: b\nCrawl-delay: x\n"
    )
    file = RobotsFile.parse(text + "User-agent: c\nUser-agent: d\nCrawl-delay: 0.5 s\ncrawl delay 2\n")
    assert [file.crawl_delay(agent) for agent in ("other", "a", "b", "c", "d")] == [5.0, 100.0, None, 2.0, 2.0]
    assert not file.allows("/x", "other")  # the delay does not end the group of "*"


def test_parse_keeps_only_the_agents_in_use():
    text = "".join(f"User-agent: a{number}\n" for number in range(30_000)) + "User-agent: gptbot\nDisallow: /\n"
    file = RobotsFile.parse(text + "User-agent: other\nDisallow: /x\n", ("pairmill", *AI_AGENTS))
    assert file.allows("/x", "other")
    assert file.list_denied_agents("/1.jpg", AI_AGENTS, "pairmill") == ["GPTBot"]


def test_list_denied_agents_bounds_the_work_of_all_agents():
    """Many agents that share a large group, each with a small one of its own, would each match the large one."""
    shared = "".join(f"User-agent: {agent}\n" for agent in AI_AGENTS)
    shared += "".join(f"Disallow: /*{'a' * 50}{n}\n" for n in range(1_500))
    text = shared + "".join(f"User-agent: {agent}\nDisallow: /{agent}\n" for agent in AI_AGENTS)
    file = RobotsFile.parse(text, ("pairmill", *AI_AGENTS))
    assert set(file.list_denied_agents("/" + "b" * 300, AI_AGENTS, "pairmill")) == set(AI_AGENTS)
    assert file.list_denied_agents("/b", AI_AGENTS[:1], "pairmill") == []


@pytest.mark.parametrize("unit", REPEATED)
def test_parse_takes_linear_time_on_any_repetition(unit):
    for before in ("", "User-agent: *\nDisallow: /", "User-agent: ", "User-agent", "Crawl-delay: "):
        text = before + unit * (50_000 // len(unit)) + "!"
        with bounded(1.5):  # about 0.04 s; a quadratic step takes over 2.5 s
            file = RobotsFile.parse(text, ("pairmill", *AI_AGENTS))
            file.allows("http://a.test/" + unit * 1_000, "pairmill")
            file.list_denied_agents("http://a.test/" + unit * 1_000, AI_AGENTS, "pairmill")


def test_parse_is_linear_in_agents_and_rules():
    """Each of 15,000 agents with each of 15,000 rules would be 225 million."""
    text = "".join(f"User-agent:a{n}\n" for n in range(15_000)) + "".join(f"Disallow:/{n}\n" for n in range(15_000))
    with bounded(10):
        file = RobotsFile.parse(text)
        assert not file.allows("/14999", "a7")
        assert not file.allows("/14999", "a8")


def test_robots_file_bounds_the_work_of_one_url():
    wildcards = "User-agent: *\n" + "".join(f"Disallow: /*{n}.jpg\n" for n in range(9_900))
    file = RobotsFile.parse(wildcards)
    assert file.allows("http://a.test/" + "x" * 60 + ".jpg", "pairmill")
    assert not file.allows("http://a.test/x/9899.jpg?size=2", "pairmill")
    hostile = "User-agent: *\n" + "".join(f"Disallow: /{'*a' * 20}{n}b$\n" for n in range(11_000))
    one = "User-agent: *\nDisallow: /" + "*a" * 250_000
    same = "User-agent: *\n" + "".join(f"Disallow: /*{'a' * 200}{n}b\n" for n in range(2_300))
    for text in (hostile, one, same):
        file = RobotsFile.parse(text)
        with bounded(5):  # no pattern is tried
            assert not any(file.allows("http://a.test/" + "a" * 2_000, "pairmill") for _ in range(100))


def test_robots_file_with_too_many_rules_allows_nothing():
    text = "User-agent: *\n" + "".join(f"Disallow: /{n}\n" for n in range(MAX_RULES))
    assert RobotsFile.parse(text).allows("/x", "pairmill")
    file = RobotsFile.parse(text + "User-agent: GPTBot\nDisallow: /11\n")
    assert not file.allows("/x", "pairmill")
    assert file.allows("/robots.txt", "pairmill")
    assert file.list_denied_agents("/x", AI_AGENTS, "pairmill") == ["GPTBot"]
