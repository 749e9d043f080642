"""Fails the build if a page would fetch a script, style, font or image from elsewhere, or if the
live page is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

FETCHES = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"'](?:https?:)?//[^>]*>"
    r"|<link\b(?=[^>]*rel=[\"'](?:stylesheet|preload|preconnect|icon)[\"'])[^>]*href=[\"'](?:https?:)?//[^>]*>"
    r"|@import\s+[^;]*//|url\([\"']?(?:https?:)?//",
    re.IGNORECASE,
)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _check(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    if not (Path(app.outdir) / "live" / "index.html").exists():
        raise ExtensionError("the live page is missing: build with make docs")
    for file in sorted(Path(app.outdir).rglob("*")):
        if file.suffix in (".html", ".css"):
            found = FETCHES.search(file.read_text(encoding="utf-8"))
            if found:
                raise ExtensionError(f"{file} would fetch {found[0][:200]}")
