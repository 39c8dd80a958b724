"""Reads robots.txt slowly and plainly from the text of RFC 9309, to compare the fast reader with it.

Independent of dataops.rights: lines by the grammar of section 2.2, groups by 2.2.1, patterns by 2.2.2 and 2.2.3, matched
by dynamic programming over octets.
"""

import re
import string

UNRESERVED = (string.ascii_letters + string.digits + "-._~").encode()


def reference_allows(body, agent, path):
    if path.split("?")[0] == "/robots.txt":
        return True
    groups = read_groups(body)
    rules = [rule for names, group in groups if agent.lower() in names for rule in group]
    if not any(agent.lower() in names for names, _ in groups):
        rules = [rule for names, group in groups if "*" in names for rule in group]
    best, decision = -1, True
    for allow, pattern in rules:
        if pattern and matches(pattern, path):
            size = octets(pattern)
            if size > best or (size == best and allow):
                best, decision = size, allow
    return decision


def read_groups(body):
    text = body.decode("utf-8")
    text = text[1:] if text.startswith("\ufeff") else text
    groups = []
    last_was_rule = True
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        field, colon, value = line.split("#")[0].partition(":")
        field, value = field.strip(" \t").lower(), value.strip(" \t")
        if not colon:
            continue
        if field == "user-agent":
            token = "*" if value == "*" else re.match(r"[A-Za-z_-]*", value)[0].lower()
            if not value:
                continue  # text that is no token names nobody, as in Google's parser
            if last_was_rule:
                groups.append((set(), []))
            groups[-1][0].add(token)
            last_was_rule = False
        elif field in ("allow", "disallow") and groups:
            groups[-1][1].append((field == "allow", value))
            last_was_rule = True
    return groups


def canonical(text, special=""):
    """Return the units of a path or pattern: an octet, or an escape; `*` and `$` of a pattern stay as they are."""
    units = []
    data, at, in_query = text.encode(), 0, False
    while at < len(data):
        octet = data[at : at + 1]
        if octet == b"%" and re.fullmatch(rb"[0-9A-Fa-f]{2}", data[at + 1 : at + 3]):
            value = bytes([int(data[at + 1 : at + 3], 16)])
            units.append(value if value in UNRESERVED else b"%" + value.hex().upper().encode())
            at += 3
            continue
        is_special = (octet == b"*" and "*" in special) or (octet == b"$" and "$" in special and at == len(data) - 1)
        is_delimiter = octet in (b"/", b"?") and not in_query
        if is_special or is_delimiter or octet in UNRESERVED:
            units.append(b"special" + octet if is_special else octet)
        else:
            units.append(b"%" + octet.hex().upper().encode())
        in_query = in_query or octet == b"?"
        at += 1
    return units


def octets(pattern):
    """Return the length in octets, with reserved characters as the file has them."""
    total = 0
    for part in re.findall(r"%[0-9A-Fa-f]{2}|.", pattern, re.DOTALL):
        if len(part) == 3 and part[0] == "%":
            total += 1 if bytes([int(part[1:], 16)]) in UNRESERVED else 3
        elif part.isascii():
            total += 1 if part not in ' "<>\\^`{|}' and part.isprintable() else 3
        else:
            total += 3 * len(part.encode())
    return total


def matches(pattern, path):
    units, target = canonical(pattern, "*$"), canonical(path)
    reached = {0}  # positions of the path that the pattern so far may end at
    for unit in units:
        if unit == b"special*":
            reached = set(range(min(reached), len(target) + 1))
        elif unit == b"special$":
            return len(target) in reached
        else:
            reached = {at + 1 for at in reached if at < len(target) and target[at] == unit}
        if not reached:
            return False
    return True
