"""Shows text from elsewhere, such as names in models, so that nothing in it is hidden or obeyed.

And two numbers so that they differ.
"""

from __future__ import annotations

import re

_PICTURES = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421}

_UNSEEN = re.compile(
    "["
    "\x80-\xa0\xad"  # control characters, the no-break space, the soft hyphen
    "\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # joiners, bidi marks, fillers
    "\u1680\u2000-\u200b\u200e\u200f"  # spaces, of no width, too; bidi marks
    "\u2028-\u202f\u205f-\u206f"  # separators, bidi embeddings, overrides and isolates
    "\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"  # fillers, the byte order mark, interlinear marks
    "\ud800-\udfff"  # lone surrogates
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # format and tag characters
    "]"
    # joiners and variation selectors, except in scripts and emoji that need them
    "|(?<![^\x00-\x7f])[\u200c\u200d\ufe00-\ufe0f]"
)
"""What has no width, looks like a space, or rearranges the text around it."""


def legible(text: str) -> str:
    """Replace each control character by its picture, and escape what cannot be seen."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSEEN.sub(_escaped, text.translate(_PICTURES))


def told_apart(one: float, other: float) -> tuple[str, str]:
    """Return two numbers with six digits, or as many more as it takes to tell them apart."""
    texts = f"{one:.6g}", f"{other:.6g}"
    for digits in range(7, 18):
        if texts[0] != texts[1]:
            break
        texts = f"{one:.{digits}g}", f"{other:.{digits}g}"
    return texts


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
