"""Runs whose latencies come from other devices' tables: predicted where these suffice, measured where they do not."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from netgraft.config import RunConfig, parse_config
from netgraft.devices import Latency, Unsupported
from netgraft.devices.fake import FakeDevice
from netgraft.errors import ConfigError, NetgraftError, StoreError
from netgraft.latency import LatencyTable
from netgraft.nets.checkpoint import save_weights
from netgraft.nets.nafnet import NafNet, NafNetShape
from netgraft.stages import Run
from netgraft.store import RunStore
from netgraft.summary import transfer_warning

torch.set_num_threads(1)


def settings(root: Path, **device: Any) -> RunConfig:
    values = {
        "size": [64, 64],
        "teacher": {"path": str(root / "teacher.safetensors")},
        "space": {"operators": ["naf_static", "conv3_res", "conv3", "inverted_residual", "partial_conv", "transposed"]},
        "device": {"name": "fake", "samples": 1, "whole_samples": 1, "check_networks": 3, **device},
    }
    return parse_config(values, "test")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a device's table in ``base.json``, one much like it in ``kin.json``, none like it in
    ``stranger.json``."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=8, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1)))
    nn.init.normal_(net.ending.weight, std=0.02)
    save_weights(net, folder / "teacher.safetensors")
    run = Run(settings(folder), RunStore(folder / "base"), lambda *_: None)
    table = run.bench.table_of(run.bench.block_sessions, run.bench.measure_assignments({}, 1))
    (folder / "base.json").write_text(table.to_json())
    rng = np.random.default_rng(0)
    for name, spread in (("kin", 0.02), ("stranger", 2.0)):
        entries = {key: scaled(entry, rng.lognormal(0, spread)) for key, entry in table.entries.items()}
        (folder / f"{name}.json").write_text(dataclasses.replace(table, entries=entries).to_json())
    return folder


def scaled(entry: Latency | Unsupported, factor: float) -> Latency:
    assert isinstance(entry, Latency)
    return dataclasses.replace(entry, median_ms=factor * entry.median_ms)


def opened(root: Path, out: Path, *tables: str, probes: int = 6) -> Run:
    base = [str(root / name) for name in tables]
    run = Run(settings(root, base_tables=base, probes=probes), RunStore(out), lambda *_: None)
    assert isinstance(run.bench.device, FakeDevice)
    # Five times as slow as the base device.
    run.bench.device.ms_per_gmac *= 5
    return run


def test_a_device_like_the_base_is_predicted(root: Path, tmp_path: Path) -> None:
    run = opened(root, tmp_path, "base.json", "kin.json")
    base = LatencyTable.from_json((root / "base.json").read_text())
    table = run.bench.table_of(run.bench.block_sessions, run.bench.measure_assignments({}, 1))
    assert table.entries.keys() == base.entries.keys()
    measured = [key for key, entry in table.entries.items() if isinstance(entry, Latency) and not entry.predicted]
    assert len(measured) == 6
    for key, entry in table.entries.items():
        assert isinstance(entry, Latency)
        assert entry.median_ms == pytest.approx(5 * scaled(base.entries[key], 1).median_ms, rel=0.05)
        assert entry.q25_ms <= entry.median_ms <= entry.q75_ms
    rows = json.loads(table.to_json())["entries"]
    assert sum(row.get("predicted", False) for row in rows) == len(rows) - 6
    assert LatencyTable.from_json(table.to_json()).entries == table.entries
    assert "6 blocks that were measured" in (transfer_warning(run.bench.transfer) or "")


def test_a_device_unlike_the_base_is_measured(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = opened(root, tmp_path, "stranger.json")
    entries = [entry for session in run.bench.block_sessions.values() for entry in session.values()]
    assert not any(isinstance(entry, Latency) and entry.predicted for entry in entries)
    assert "so all are measured: the predicted ranks" in caplog.text
    assert "did not serve this device" in (transfer_warning(run.bench.transfer) or "")


def test_a_refused_probe_means_that_all_is_measured(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(root, tmp_path, "base.json", "kin.json")
    monkeypatch.setattr(run.bench, "_compile", lambda *_: Unsupported("no kernel"))
    assert run.bench.transfer is not None
    assert run.bench.transfer.prediction is None
    assert "(no kernel), and what it refuses cannot be foreseen" in (run.bench.transfer.reason or "")


def test_without_base_tables_nothing_changes(root: Path, tmp_path: Path) -> None:
    run = opened(root, tmp_path)
    assert run.bench.transfer is None
    assert transfer_warning(None) is None


def test_bad_base_tables_are_refused_in_one_line(root: Path, tmp_path: Path) -> None:
    table = LatencyTable.from_json((root / "base.json").read_text())
    fewer = {key: entry for key, entry in table.entries.items() if key[1] != "conv3"}

    def refused(name: str, text: str | None, kind: type[NetgraftError], words: str) -> None:
        if text is not None:
            (tmp_path / name).write_text(text)
        run = Run(settings(root, base_tables=[str(tmp_path / name)]), RunStore(tmp_path / "run"), lambda *_: None)
        with pytest.raises(kind, match=words):
            run.bench.transfer  # noqa: B018

    refused("none.json", None, StoreError, "none.json: cannot be read")
    refused("odd.json", "{}", StoreError, "odd.json: this is no latency table")
    refused("size.json", dataclasses.replace(table, size=(32, 32)).to_json(), ConfigError, "images of")
    refused("fewer.json", dataclasses.replace(table, entries=fewer).to_json(), ConfigError, "without conv3 at")
