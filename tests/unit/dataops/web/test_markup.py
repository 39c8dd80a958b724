"""The bytes that the scan removes never change what is read from the tree."""

import random

import pytest
from selectolax.lexbor import LexborHTMLParser

from dataops.web.declarations import is_license_link
from dataops.web.markup import Reader, read_markup

PIECES = (
    "<script>", "</script>", "<style>", "</style>", "<SCRIPT src='x>y'>", "</script/>", "</scripty>", "<script/>",
    "<!--", "-->", "--!>", "<!-->", "<!x>", "<?x>", "<svg>", "</svg>", "<svg/>", "<math>", "</math>", "<title>", "</title>",
    "<desc>", "</desc>", "<foreignObject>", "</foreignObject>", "<annotation-xml encoding='text/html'>", "<mi>", "</mi>",
    "<select>", "</select>", "<option>", "<textarea>", "</textarea>", "<noscript>", "</noscript>", "<template>",
    "</template>", "<table>", "<tr>", "<td>", "</table>", "<iframe>", "</iframe>", "<div>", "</div>", "<p>", "<b>", "</b>",
    "<a href='<script>'>", "<img src=a>", "<img src='</script>'>", "x", "if(a<b){'<p>'}", "<s", "</", "<", ">", '"', "'",
    "<![CDATA[", "]]>", "<frameset>", "<plaintext>", "<body>", "</body>", "</html>", "<head>", "<svg class=x>", "</svg>",
    "<path d='</svg>'>", "<path d=x/>", "<path d='' />", "</path>", "<g id=g>", "</g>", "<use/>", "<a rel=license href=x>",
    "<a href='HTTPS://www.CreativeCommons.org/licenses/by/4.0'>", "<a rel='lic&#101;nse'>", "<figcaption>", "</figcaption>",
    "<div class='-->'>", "<p title='</textarea>' x=</style>", "<li a='</title>'>", "<input type=hidden id=a>",
    "<i class=a>",
    "<span class=\"]]>\">", "<td a='<!--'>", "<link rel=icon href='<svg>'>", "<br/>", "<div/", "<font color=red>",
)  # fmt: skip
WITH_ATTRIBUTES = frozenset(("img", "base", "meta", "source", "input", "html", "font", "i", "template"))


def elements(html, whole):
    """Return each element with its path, the attributes that are read, and its text, except that of scripts and styles."""
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
            attributes = node.attributes
            has_attributes = (
                whole or node.tag in WITH_ATTRIBUTES or (node.tag in ("a", "link") and is_license_link(attributes))
            )
            found.append((node.tag + path, attributes if has_attributes else {}, ""))
        elif not path.startswith(("<script", "<style")):
            found.append(("-text" + path, {}, node.text_content or ""))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_read_markup_keeps_the_elements_of_the_whole_page(seed):
    generator = random.Random(seed)
    removed = 0
    for _ in range(150):
        likely = generator.sample(PIECES, 14)
        html = "".join(generator.choices(likely, k=generator.randrange(4, 40))).encode()
        for reader in (Reader.PAIRS, Reader.ALL):
            read = read_markup(html, reader)
            removed += len(read.html) < len(html)
            expected = elements(html, reader == Reader.ALL)
            assert elements(read.html, reader == Reader.ALL) == expected, html
            tags = [(tag, attributes) for tag, attributes, _ in expected if tag.startswith(("a<", "link<"))]
            assert read.licensed or not any(map(is_license_link, (attributes for _, attributes in tags))), html
    assert removed


REMOVED = [
    ("<style>b{}</style><SCRIPT async>'<img>'</SCRIPT >y", "<style></style><SCRIPT></SCRIPT >y"),
    ("<script>never closed", "<script>never closed"),
    ("<p>x</p><!-- <div id=a> --><div id='never closed", "<p>x</p><!-- <div id=a> --><div id='never closed"),
    ("<div class='>' id=a><img id=b><p/ title=x></div >", "<div><img id=b><p></div >"),
    (
        "<svg id=a><title>x</title><path d='/>'/><g id=b></g></svg>y",
        "<svg><title>x</title><path d='/>'/><g id=b></g></svg>y",
    ),
    ("<a href=/b>b</a><a rel=license href=l>l</a>", "<a>b</a><a rel=license href=l>l</a>"),
    (
        "<a href='https://creativecommons.org/licenses/by/4.0/'>",
        "<a href='https://creativecommons.org/licenses/by/4.0/'>",
    ),
    ("<p id=a>x</p><img aria-labelledby=a>", "<p id=a>x</p><img aria-labelledby=a>"),
]


@pytest.mark.parametrize(("html", "kept"), REMOVED)
def test_read_markup_removes_unused_bytes(html, kept):
    assert read_markup(html.encode(), Reader.PAIRS).html.decode() == kept
