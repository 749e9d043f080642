"""Markdown for reports: tables, and plain text inside them."""

from __future__ import annotations

import re
from collections.abc import Sequence

EMPTY = "–"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without the columns in which no row has anything but a dash; numbers, that is all
    columns but the first, stand to the right."""
    keep = [i for i in range(len(head)) if any(row[i] != EMPTY for row in rows)]
    lines = ["| " + " | ".join(head[i] for i in keep) + " |"]
    lines.append("|" + "|".join("---" if i == 0 else "---:" for i in keep) + "|")
    lines += ["| " + " | ".join(row[i] for i in keep) + " |" for row in rows]
    return "\n".join(lines)


def escape(text: str) -> str:
    """`text` as it reads, in one line."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """`text` without what would end inline code."""
    return text.replace("`", "")


def fenced(text: str, language: str) -> str:
    """A block of code, whatever backticks are in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"
