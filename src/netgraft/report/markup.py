"""Numbers and tables as HTML. Whatever comes from outside is escaped here, once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from numbers import Integral, Real
from typing import Any, TypeGuard

import numpy as np

ABSENT = "–"


def number(value: Any, digits: int = 2, unit: str = "", *, signed: bool = False) -> str:
    """``value`` with ``digits`` decimals and a unit; a dash for what is missing or not finite."""
    if not is_number(value):
        return ABSENT
    text = f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}"
    # A typographic minus lines up with the plus; "-0.00" is zero.
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("+-")
    return text.replace("-", "−") + (f"\N{NO-BREAK SPACE}{unit}" if unit else "")


def significant(value: Any, unit: str = "") -> str:
    """``value`` with about three significant digits."""
    if not is_number(value):
        return ABSENT
    if value == 0:
        return number(0, 0, unit)
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{mantissa}·10{raised}" + (f"\N{NO-BREAK SPACE}{unit}" if unit else "")
    return number(value, max(0, 2 - math.floor(math.log10(abs(value)))), unit)


def scaled(value: Any, unit: str) -> str:
    """A large count with a prefix: 4,085,148,160 MACs are 4.09 GMACs."""
    if not is_number(value):
        return ABSENT
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return significant(value / factor, prefix + unit)
    return number(value, 0, unit)


def duration(seconds: Any) -> str:
    """Seconds as a person would say them."""
    if not is_number(seconds):
        return ABSENT
    if seconds < 60:
        return significant(seconds, "s")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is a finite number, of Python or NumPy."""
    return type(value) is not bool and isinstance(value, Real) and math.isfinite(value)


def plain(value: Any) -> str:
    """Any value of a result or protocol as escaped text."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}".replace("-", "−")
    if isinstance(value, Real):
        return significant(value)
    if isinstance(value, list | tuple):
        # Sizes such as (256, 256) read better with a sign between them.
        numbers = len(value) == 2 and all(isinstance(part, int) for part in value)
        return (" × " if numbers else ", ").join(plain(part) for part in value)
    return escape(str(value))


def latency(values: Mapping[str, Any]) -> str:
    """Median and quartiles of a network's ``latency_ms``."""
    found = values.get("latency_ms") or {}
    median = significant(found.get("median"), "ms")
    if found.get("q25") is None or found.get("q75") is None:
        return median
    return f"{median} <small>[{significant(found['q25'])}, {significant(found['q75'])}]</small>"


def typeset(name: str) -> str:
    """A name with its numbers as one prints them: 5-10 is a range, -1 is negative."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", re.sub(r"(?<=\d)-(?=\d)", "–", name))


def words(key: str) -> str:
    """A name from a result as words."""
    return key.replace("_", " ")


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text_columns: int = 1,
    marked: Sequence[bool] | None = None,
) -> str:
    """A table of cells that are HTML already; all columns but the first ``text_columns`` hold numbers.

    marked: rows to set off from the others.
    """

    def line(tag: str, row: Sequence[str], style: str = "") -> str:
        kinds = ["" if i < text_columns else ' class="n"' for i in range(len(row))]
        cells = (f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, row, strict=True))
        return f"<tr{style}>{''.join(cells)}</tr>"

    styles = [' class="marked"' if mark else "" for mark in marked or [False] * len(rows)]
    body = "".join(line("td", row, style) for row, style in zip(rows, styles, strict=True))
    return f'<div class="scroll"><table><thead>{line("th", head)}</thead><tbody>{body}</tbody></table></div>'


def pairs(values: Sequence[tuple[str, str]]) -> str:
    """A list of terms and their values; the terms are escaped, the values are HTML already."""
    return "<dl>" + "".join(f"<dt>{escape(term)}</dt><dd>{value}</dd>" for term, value in values) + "</dl>"


def details(summary: str, content: str) -> str:
    """Content that is folded away at first."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def section(anchor: str, title: str, lead: str, *content: str) -> str:
    """A section of the page; ``lead`` says what to read from it."""
    head = f'<h2>{escape(title)}</h2><p class="lead">{lead}</p>'
    return f'<section id="{anchor}">{head}{"".join(content)}</section>'


def figure(name: str, spec: dict[str, Any], *, pick: str = "") -> str:
    """A place for a plotly figure, with its data beside it.

    pick: label of a menu that shows one group of traces at a time, by their ``meta``.
    """
    # "<" can end a script element or open a comment in it; its escape means the same in JSON.
    data = json.dumps(_jsonable(spec), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    menu = f'<label class="pick">{escape(pick)} <select data-pick="{name}"></select></label>' if pick else ""
    height = spec["layout"].get("height", 420)
    return (
        f'{menu}<div class="plot" id="plot-{name}" style="height:{height}px"></div>'
        f'<script type="application/json" class="plot-data" data-for="plot-{name}">{data}</script>'
    )


def _jsonable(value: Any) -> Any:
    """``value`` in what JSON knows: NumPy's numbers as Python's, NaN and infinity as null."""
    if isinstance(value, dict):
        return {key: _jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
