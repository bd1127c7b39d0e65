"""The page around the sections: one file that needs nothing else."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Sequence
from html import escape

from plotly.offline.offline import get_plotlyjs

from netgraft.report import sections
from netgraft.report.data import ReportData
from netgraft.report.verdict import cards, verdict

POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser itself refuses to load anything from elsewhere, whatever text got into the page."""


def render(data: ReportData) -> str:
    """The report as one HTML page: no network, no other files, any section without data left out."""
    parts = [text for show in sections.ORDER if (text := show(data))]
    warnings = "".join(f'<p class="warning">{escape(warning)}</p>' for warning in data.warnings)
    return page(data.title, verdict(data), parts, data.created, f"{warnings}\n{cards(data)}")


def page(title: str, lead: str, parts: Sequence[str], created: str, header: str = "") -> str:
    """Sections as one HTML page; lead and header, which come before them, are HTML already, title and created text."""
    body = "\n".join(parts)
    # The plotting library is most of the page's size, so it is only there when something is plotted.
    scripts = f"<script>{_plotly()}</script>" if 'class="plot"' in body else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_resource("style.css")}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="verdict">{lead}</p>
{header}
{_contents(parts)}
</header>
<main>
{body}
</main>
<footer>netgraft report, <time>{escape(created)}</time></footer>
{scripts}
<script>{_resource("page.js")}</script>
</body>
</html>
"""


def _contents(parts: Sequence[str]) -> str:
    """Links to the sections."""
    found = [re.match(r'<section id="([^"]+)"><h2>([^<]+)</h2>', part) for part in parts]
    links = "".join(f'<a href="#{match[1]}">{match[2]}</a>' for match in found if match)
    return f"<nav>{links}</nav>" if links else ""


def _resource(name: str) -> str:
    return importlib.resources.files("netgraft.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    script: str = get_plotlyjs()  # type: ignore[no-untyped-call]
    # The script must not end its own element; JavaScript reads the escaped slash as a slash.
    return script.replace("</script", "<\\/script")
