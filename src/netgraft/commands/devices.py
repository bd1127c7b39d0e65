"""What this machine can measure on."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer
from rich.table import Table

from netgraft.commands.console import Json, finish, out_console


def devices(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Only these, e.g. qnn:s24-ultra.")] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Run a tiny network on each that is here; phones only where they are named."),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the devices that this machine can measure on, and what is missing."""
    from netgraft.devices import describe_devices

    rows = [dataclasses.asdict(row) for row in describe_devices(names or ())]
    table = Table()
    table.add_column("device", no_wrap=True)
    for column in ("here", "note", *(["check"] if check else [])):
        table.add_column(column)
    for row in rows:
        cells = [row["name"], _here(row), row["note"]]
        if check and row["available"] and (names or not row["on_request"]):
            cells.append(_checked(row))
        table.add_row(*cells)
    out_console.print(table)
    finish({"devices": rows}, as_json)


def _here(row: dict[str, Any]) -> str:
    """What is there of a device, or how to get it; some lack more than a package."""
    if row["available"]:
        return f"yes: {row['version']}"
    return f"no: {row['install']}" if row["lacking"].endswith("not installed") else f"no: {row['lacking']}"


def _checked(row: dict[str, Any]) -> str:
    """What came of the check, which the row gets as well."""
    from netgraft.devices import check_device

    tried = check_device(row["name"])
    row["check"] = dataclasses.asdict(tried)
    if tried.reason or tried.placement:
        return tried.reason or f"compiles: {tried.placement}"
    return f"ok, {tried.latency_ms:.3f} ms, error {tried.max_abs_error:.1e}"
