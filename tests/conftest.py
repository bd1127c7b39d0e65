"""What holds for every test, and what several need."""

import sys
from pathlib import Path

import pytest
import torch

from netgraft.cli import main
from netgraft.nets.checkpoint import save_weights
from netgraft.nets.nafnet import NafNet, NafNetShape
from terminal import Netgraft, Outcome


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums come out alike on every machine, and the suite does not crowd it."""
    torch.set_num_threads(1)


@pytest.fixture
def teacher() -> NafNet:
    """A small network in which every parameter has an effect."""
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


@pytest.fixture
def netgraft(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Netgraft:
    """The command in this process: starting one for every case would mostly import torch."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["netgraft", *map(str, arguments)])
        capfd.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        output = capfd.readouterr()
        return Outcome(int(str(code)), output.out, output.err)

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "tiny.safetensors"
    shape = NafNetShape(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,))
    save_weights(NafNet(shape), path)
    return path
