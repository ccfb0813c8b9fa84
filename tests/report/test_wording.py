"""Formats of numbers and names."""

from __future__ import annotations

import math

import pytest

from bnfold.report.wording import (
    command_line,
    count,
    legible,
    number,
    percent,
    shortened,
    sizes,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.2345e-7, "1.23e-07"), (0.0, "0"), (math.inf, "inf"), (math.nan, "nan"), (None, "–")],
)
def test_errors_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1e-9, "< 0.01 %"),
        (0.01864, "1.86 %"),
        (1.0, "100 %"),
        (4200.0, "4,200 times"),
        (math.inf, "–"),
        (None, "–"),
    ],
)
def test_shares_are_in_percent(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_nouns_have_their_plural() -> None:
    assert [count(n, "pass") for n in (0, 1, 2)] == ["0 passes", "1 pass", "2 passes"]
    assert count(1200, "rewrite") == "1,200 rewrites"


def test_the_shape_of_a_scalar() -> None:
    assert sizes([1, 3, 224]) == "1×3×224"
    assert sizes([]) == "scalar"


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["/opt/venv/bin/bnfold", "check", "a b.onnx"], "bnfold check 'a b.onnx'"),
        (["/x/bnfold/__main__.py", "explain", "m"], "bnfold explain m"),
        (["convert.py", "$(rm -rf x)"], "convert.py '$(rm -rf x)'"),
        ([], ""),
    ],
)
def test_a_command_can_be_pasted_into_a_shell(command: list[str], text: str) -> None:
    assert command_line(command) == text


def test_emoji_and_other_scripts_are_kept() -> None:
    for text in ("👩‍👩‍👧", "تحويل", "层/卷积", "naïve"):
        assert shortened(text) == text


def test_long_names_are_shortened_with_their_length() -> None:
    assert shortened("n" * 10_000, 5) == "nnnnn… (10,000 characters)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a\\u202eb"),  # turns the text around
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),  # separators
        ("a\u200bb\ufeff\xad", "a\\u200bb\\ufeff\\u00ad"),  # no width
        ("conv\u200d1\ufe0f", "conv\\u200d1\\ufe0f"),  # joins nothing
        ("a\u00a0b\u3164", "a\\u00a0b\\u3164"),  # look like a space
        ("a\U000e0041", "a\\U000e0041"),  # a tag
        ("\x1b]0;x\x07\x9b", "␛]0;x␇\\u009b"),  # obeyed by terminals
        ("\ud800", "\\ud800"),
        ("plain", "plain"),
    ],
)
def test_what_cannot_be_seen_is_escaped(text: str, shown: str) -> None:
    assert legible(text) == shown
