"""Text that a file gave, made harmless for where it is shown: terminal, Markdown, CSV, HTML, figure, file name.

A result row, a folder's name, a setting in a checkpoint are whatever somebody wrote there. What a terminal, a browser
or a spreadsheet would take for an order is shown as the characters that it is made of.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata

LONGEST = 500  # characters of one text that are shown
LONGEST_NAME = 80  # of a file name
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# Control characters, and those that turn the direction of a line or cannot be encoded; a space stays.
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def plain(text: object, keep: str = "", most: int | None = LONGEST) -> str:
    """The text in one line, with control characters (terminal escapes, changes of direction) as their codes.

    keep: characters that stay as they are, newlines of a log for example. most: characters that are shown of it.
    """
    found = str(text)
    found = found if most is None or len(found) <= most else found[: most - 3] + "..."
    shown = (c if c in keep or unicodedata.category(c) not in HIDDEN else c.encode("unicode_escape") for c in found)
    return "".join(c if isinstance(c, str) else c.decode() for c in shown)


def markdown(text: object, most: int | None = LONGEST) -> str:
    """The text inside a line or a table of Markdown: no markup, link, picture or HTML of its own."""
    escaped = re.sub(r"([\\`*\[\]|~])", r"\\\1", html.escape(plain(text, most=most), quote=False))
    return escaped.replace("://", "&#58;//").replace("www.", "www&#46;")


def csv_cell(value: object) -> object:
    """A value as a cell of CSV, whole; a text that a spreadsheet would compute is marked as text."""
    if not isinstance(value, str):
        return value
    text = plain(value, most=None)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) or value.startswith(FORMULA) else text


def file_name(text: object) -> str:
    """A file name that tells the text, in the folder where it is put: no separators, no leading dot.

    What was changed or shortened gets a hash, so that other texts have other names.
    """
    given = str(text)
    name = re.sub(r"[^\w.+-]", "_", given, flags=re.ASCII).lstrip(".")
    if name == given and 0 < len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(given.encode('utf-8', 'replace')).hexdigest()[:8]}"
