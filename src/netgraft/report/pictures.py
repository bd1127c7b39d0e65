"""Crops as images inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from netgraft.report.data import Crop, Picture
from netgraft.report.markup import number

VERSIONS = ("degraded", "teacher", "student", "clean")


def data_uri(picture: Picture) -> str:
    """``picture``, (h, w, 3) uint8 RGB, as a lossless PNG that needs no file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def gallery(crops: Sequence[Crop]) -> str:
    """A comparison with a slider for the first crop, and all four versions of each, side by side."""
    uris = [{version: data_uri(getattr(crop, version)) for version in VERSIONS} for crop in crops]
    return _slider(crops[0], uris[0]) + "".join(map(_strip, crops, uris))


def _slider(crop: Crop, uris: dict[str, str]) -> str:
    """Two versions on top of one another; the handle moves the edge between them."""

    def menu(side: str, start: str) -> str:
        choices = "".join(
            f'<option value="{version}"{" selected" if version == start else ""}>{version}</option>'
            for version in VERSIONS
        )
        return f'<select data-side="{side}" aria-label="{side} side">{choices}</select>'

    height, width = crop.clean.shape[:2]
    return (
        f'<div class="compare" style="--ratio:{width}/{height}"><div class="stack">'
        f'<img data-layer="right" src="{uris["student"]}" alt="student">'
        f'<img data-layer="left" src="{uris["degraded"]}" alt="degraded"><i class="edge"></i>'
        f'<input type="range" min="0" max="100" step="0.1" value="50" aria-label="edge between the versions">'
        f'</div><div class="sides">{menu("left", "degraded")}<span>{escape(crop.name)}</span>'
        f"{menu('right', 'student')}</div></div>"
    )


def _strip(crop: Crop, uris: dict[str, str]) -> str:
    figures = "".join(
        f'<figure><img src="{uris[version]}" alt="{version}" data-version="{version}">'
        f"<figcaption><b>{version}</b> {_caption(crop, version)}</figcaption></figure>"
        for version in VERSIONS
    )
    return f'<h3>{escape(crop.name)}</h3><div class="strip">{figures}</div>'


def _caption(crop: Crop, version: str) -> str:
    return number(crop.psnr_db[version], 2, "dB") if version in crop.psnr_db else ""
