r"""Text from files and names as a terminal may show it: control characters become visible escapes.

A caption, a file name or a record may hold anything: sequences that colour, erase or rewrite what a terminal shows,
line ends that fake a line, marks that reverse the order of letters, bytes that are no text. Each such character is
shown as Python writes it in a string (`\x1b`, `\n`, `\u202e`); all else stays,
emoji and right-to-left scripts too.
"""

import re

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""`str(text)` on one line, without a character that controls a terminal or cannot be encoded.

    Example:
        >>> print(printable("a dog.png\x1b[2J"))
        a dog.png\x1b[2J
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def printable_lines(text: object) -> str:
    r"""As `printable`, for text of several lines: line feeds stay.

    Example:
        >>> print(printable_lines("12 images\n3 were left out, the first: a\x07.png"))
        12 images
        3 were left out, the first: a\x07.png
    """
    return "\n".join(map(printable, str(text).split("\n")))
