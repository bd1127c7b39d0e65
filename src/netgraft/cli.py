"""The command line: every command with its help, and what becomes of errors.

Exit codes: 0 done; 2 the input is wrong, in one line on stderr; 1 a bug of ours, with its traceback; 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from netgraft.commands.adapt import adapt
from netgraft.commands.compare import compare
from netgraft.commands.compile import compile_model
from netgraft.commands.devices import devices
from netgraft.commands.evaluate import evaluate
from netgraft.commands.imports import imports
from netgraft.commands.refit import run, stage_command
from netgraft.commands.reproduce import reproduce
from netgraft.commands.restore import restore
from netgraft.commands.train import train
from netgraft.errors import NetgraftError

app = typer.Typer(
    help="Refit a pretrained image-restoration network to the device it ships on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

STAGE_HELP = {
    "saliency": "How much each site is expected to matter, by up to six metrics.",
    "distill": "Train a replacement for every operator at every site.",
    "profile": "Measure every replacement on the device, and whether latencies add up.",
    "search": "Find the front of quality against latency; no network is trained.",
    "finetune": "Fine-tune the chosen student from end to end.",
    "export": "Write teacher and student as ONNX, with parity to PyTorch.",
    "report": "Write result.json and report.html.",
}

app.command("run")(run)
for name, help_text in STAGE_HELP.items():
    app.command(name, help=help_text)(stage_command(name))
for command in (restore, evaluate, compare, train, adapt, reproduce, devices):
    app.command()(command)
app.command("compile")(compile_model)
app.add_typer(imports, name="import")
INTERRUPTED = 130
"""What typer makes of a keyboard interrupt, as shells do."""
COMMANDS = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands] + [
    "import"
]


def main() -> None:
    """Entry point of the ``netgraft`` command."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except NetgraftError as error:
        _refuse(str(error))
    except TyperException as error:
        command = " ".join(["netgraft", *(word for word in sys.argv[1:2] if word in COMMANDS)])
        _refuse(f"{error.format_message()} (see {command} --help)")
    if code == INTERRUPTED:
        sys.stderr.write("netgraft: stopped; the same command continues\n")
    sys.exit(code)


def _refuse(reason: str) -> NoReturn:
    """Leave with what is wrong with the input, in one line."""
    sys.stderr.write(f"netgraft: {' '.join(reason.split())}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
