"""What is left out before a tree is built never changes the tree's elements and what they hold otherwise."""

import random

import pytest
from selectolax.lexbor import LexborHTMLParser

from dataops.markup import read_markup

PIECES = (
    "<script>", "</script>", "<style>", "</style>", "<SCRIPT src='x>y'>", "</script/>", "</scripty>", "<script/>",
    "<!--", "-->", "--!>", "<!-->", "<!x>", "<?x>", "<svg>", "</svg>", "<svg/>", "<math>", "</math>", "<title>", "</title>",
    "<desc>", "</desc>", "<foreignObject>", "</foreignObject>", "<annotation-xml encoding='text/html'>", "<mi>", "</mi>",
    "<select>", "</select>", "<option>", "<textarea>", "</textarea>", "<noscript>", "</noscript>", "<template>",
    "</template>", "<table>", "<tr>", "<td>", "</table>", "<iframe>", "</iframe>", "<div>", "</div>", "<p>", "<b>", "</b>",
    "<a href='<script>'>", "<img src=a>", "<img src='</script>'>", "x", "if(a<b){'<p>'}", "<s", "</", "<", ">", '"', "'",
    "<![CDATA[", "]]>", "<frameset>", "<plaintext>", "<body>", "</body>", "</html>", "<head>",
)  # fmt: skip


def elements(html: bytes) -> list[tuple[str, dict[str, str | None], str]]:
    """Each element, where it stands, and its text, but for the contents of scripts and styles."""
    tree = LexborHTMLParser(html)
    found = []
    for node in tree.root.traverse(include_text=True) if tree.root else ():
        above, path = node.parent, ""
        while above is not None and above.tag:
            path += f"<{above.tag}"
            above = above.parent
        if node.tag is None:
            continue
        if node.tag != "-text":
            found.append((node.tag + path, node.attributes, ""))
        elif not path.startswith(("<script", "<style")):
            found.append(("-text" + path, {}, node.text_content or ""))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_elements_are_those_of_the_whole_page(seed: int) -> None:
    chance = random.Random(seed)
    left_out = 0
    for _ in range(150):
        likely = chance.sample(PIECES, 12)
        html = "".join(chance.choices(likely, k=chance.randrange(4, 40))).encode()
        read = read_markup(html).html
        left_out += len(read) < len(html)
        assert elements(read) == elements(html), html
    assert left_out


@pytest.mark.parametrize(
    "html",
    [
        "<select><style></select><img src=real></style>",
        "<script><!--<script></script><style>--></script><img src=real></style>",
        "<svg><desc></svg></desc><script><img src=real></script>",
        "<svg><title><svg><desc></title></svg></svg><script><img src=real></script>",
    ],
)
def test_images_that_a_simpler_reading_would_lose(html: str) -> None:
    assert b"<img src=real>" in read_markup(html.encode()).html


def test_scripts_and_styles_are_left_out() -> None:
    html = (
        b"<svg><title>x</title><path d=''/></svg><style>b{}</style><script>'<img>'</script><SCRIPT async>1</SCRIPT >y"
    )
    assert read_markup(html).html == (
        b"<svg><title>x</title><path d=''/></svg><style></style><script></script><SCRIPT async></SCRIPT >y"
    )
    assert read_markup(b"<p>x</p>").html == b"<p>x</p>"
    assert read_markup(b"<script>never closed").html == b"<script>never closed"


def test_no_more_holes_than_there_is_room_for() -> None:
    read = read_markup(b"<script>1</script>" * 5000 + b"<p>x").html
    assert read.count(b"<script></script>") == 4000
    assert read.count(b"<script>1</script>") == 1000
