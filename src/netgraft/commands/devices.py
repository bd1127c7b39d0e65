"""What this machine can measure on."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from netgraft.commands.console import Json, finish, out_console


def devices(
    check: Annotated[bool, typer.Option("--check", help="Run a tiny network on each that is here.")] = False,
    as_json: Json = False,
) -> None:
    """List the devices that this machine can measure on, and what is missing."""
    from netgraft.devices import check_device, describe_devices

    rows = [dataclasses.asdict(row) for row in describe_devices()]
    table = Table()
    table.add_column("device", no_wrap=True)
    for column in ("here", "note", *(["check"] if check else [])):
        table.add_column(column)
    for row in rows:
        cells = [row["name"], f"yes: {row['version']}" if row["available"] else f"no: {row['install']}", row["note"]]
        if check and row["available"]:
            tried = check_device(row["name"])
            row["check"] = dataclasses.asdict(tried)
            cells.append(tried.reason or f"ok, {tried.latency_ms:.3f} ms, error {tried.max_abs_error:.1e}")
        table.add_row(*cells)
    out_console.print(table)
    finish({"devices": rows}, as_json)
