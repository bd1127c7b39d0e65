"""Runs on several devices: one search, a front for each and one for all, and what happens when one of them dies."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft import cli, stages
from netgraft.config import RunConfig, parse_config
from netgraft.data.photos import photos
from netgraft.devices import DeviceDescription, FakeDevice, measure_modules
from netgraft.devices.device import Runnable, Unsupported
from netgraft.devices.fake import FakeRunnable
from netgraft.errors import ConfigError, DeviceLost, SearchError
from netgraft.imaging import write_image
from netgraft.latency import LatencyTable
from netgraft.nets.blocks import deploy
from netgraft.nets.checkpoint import save_weights
from netgraft.nets.macs import count_macs
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.pipeline import refit
from netgraft.prefix import PrefixScores
from netgraft.stages import Run
from netgraft.stages.joint import LOSS
from netgraft.store import RunStore
from netgraft.tables import result_table, stage_table

torch.set_num_threads(1)

SITES = ("encoders.0.0", "middle_blks.0", "decoders.0.0")
FIRST, SECOND = "fake", "openvino"
"""Names of devices that the catalog knows; what is opened under them are the two below."""


class Priced(FakeDevice):
    """A network costs what its multiply-accumulates do, and a price for each module of a class."""

    def __init__(self, name: str, ms_per_gmac: float, prices: Mapping[str, float], refuses: tuple[str, ...]) -> None:
        super().__init__(ms_per_gmac=ms_per_gmac, refuses=refuses)
        self.name, self.prices = name, prices

    @property
    def place(self) -> str:
        return f"the machine of {self.name}"

    @property
    def description(self) -> DeviceDescription:
        found = super().description.as_dict() | {"hardware": self.name}
        return DeviceDescription(**found)  # type: ignore[arg-type]

    def cost_ms(self, module: nn.Module, size: tuple[int, int], channels: int) -> float:
        priced = sum(self.prices.get(type(part).__name__, 0.0) for part in module.modules())
        return priced + self.ms_per_gmac * count_macs(module, size, channels) / 1e9

    def compile(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> Runnable | Unsupported:
        made = super().compile(module, example, calibration)
        if isinstance(made, FakeRunnable):
            made.cost_ms = self.cost_ms(module, (example.shape[2], example.shape[3]), example.shape[1])
        return made


def processor(refuses: tuple[str, ...] = ()) -> Priced:
    """Pays for multiply-accumulates: fastest at half the resolution."""
    return Priced("processor", 1000.0, {}, refuses)


def npu(refuses: tuple[str, ...] = ()) -> Priced:
    """Pays for layer norms and for changes of the resolution: fastest with dense convolutions."""
    return Priced("npu", 100.0, {"LayerNorm2d": 2.0, "HalfResolution": 3.0, "LeakyReLU": 0.5}, refuses)


def use(patched: pytest.MonkeyPatch, **devices: Priced) -> None:
    opened = {FIRST: processor(), SECOND: npu()} | devices
    patched.setattr(stages.latency, "open_device", lambda name, threads: opened[name])


def settings(root: Path, also: tuple[str, ...] = (SECOND,), **search: Any) -> RunConfig:
    """A run of 27 assignments, all of which are evaluated."""
    values: dict[str, Any] = {
        "size": [64, 64],
        "teacher": {"path": str(root / "teacher.safetensors")},
        "data": {"source": "sharp", "root": str(root / "photos"), "strength_px": [2.0, 6.0]},
        "saliency": {"metrics": ["snip"], "crops": 2, "crop": 32},
        "space": {"sites": SITES, "operators": ["half_res", "conv3_res"], "protect_top": 0, "protect_by": "snip"},
        "distill": {"steps": 2, "batch": 2, "crop": 32, "data_fraction": 1.0},
        "device": {
            "name": FIRST, "also": also, "samples": 2, "whole_samples": 2, "final_samples": 5, "check_networks": 3
        },
        "search": {"budget": 27, "crops": 2, "calibration": 1, "max_loss_db": 3.0, "joint": "each"} | search,
        "finetune": {"steps": 2, "batch": 2, "crop": 32},
    }  # fmt: skip
    return parse_config(values, "test")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a data set: photographs of 96x112 pixels."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)))
    start_residuals(net, 0.2)
    nn.init.normal_(net.ending.weight, std=0.02)
    save_weights(net, folder / "teacher.safetensors")
    for split, count in (("train", 2), ("validation", 1), ("test", 2)):
        (folder / "photos" / split).mkdir(parents=True)
        for photo in photos(split)[:count]:
            write_image(folder / "photos" / split / f"{photo.name}.png", photo.image[100:196, 100:212])
    return folder


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on both devices."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patched:
        use(patched)
        refit(settings(root), out)
    return out


@pytest.fixture
def copied(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run's folder, with the devices at hand."""
    use(monkeypatch)
    return Path(shutil.copytree(whole, tmp_path / "run"))


def expected_ms(run: Run) -> np.ndarray:
    """(27, 2): what the devices ask for each evaluated network, put together and taken as a whole."""
    found = []
    for row in run.search.assignments.tolist():
        network = deploy(run.student_of(run.name_row(row)))
        found.append([device.cost_ms(network, (64, 64), 3) for device in (processor(), npu())])
    return np.array(found)


def beaten(costs: np.ndarray) -> np.ndarray:
    """(n,) whether another row is nowhere worse and somewhere better, by the definition."""
    return np.array([any((a <= b).all() and (a < b).any() for a in costs) for b in costs])


def test_every_device_has_its_row_and_the_first_stands_for_the_run(whole: Path) -> None:
    figures = json.loads((whole / "result.json").read_text())
    first, second = figures["devices"]
    assert (first["name"], second["name"]) == (FIRST, SECOND)
    assert first["front"] == figures["front"]
    assert first["teacher"]["latency_ms"] == figures["teacher"]["latency_ms"]
    assert first["student"]["latency_ms"] == figures["student"]["latency_ms"]
    assert first["description"] == figures["device"]
    for row, hardware in ((first, "processor"), (second, "npu")):
        table = LatencyTable.from_json((whole / row["table"]).read_text())
        assert table.device == row["description"]
        assert row["description"]["hardware"] == hardware
        median = {name: row[name]["latency_ms"]["median"] for name in ("teacher", "student")}
        assert row["speedup"] == pytest.approx(median["teacher"] / median["student"])
        assert row["teacher"]["latency_ms"].keys() == {"median", "q25", "q75"}
    assert first["table"] == "latency_table.json"
    assert figures["warnings"] == []


def test_the_fronts_are_those_of_brute_force(whole: Path, root: Path, copied: Path) -> None:
    """On each device, and together, whichever objectives the search had; networks are priced whole, without a table."""
    for joint in ("each", "slowest"):
        run = Run(settings(root, joint=joint), RunStore(copied))
        assert len(run.search.costs) == 27
        expected, loss = expected_ms(run), run.search.costs[:, LOSS]
        shares = (expected / expected[~run.search.assignments.any(axis=1)]).max(axis=1)
        np.testing.assert_allclose(run.latency_ms, expected, rtol=1e-9)
        np.testing.assert_allclose(run.latency, shares, rtol=1e-9)
        # Sites of one shape cost the same, and sums of the same may differ in their last bits.
        ms, slowest = run.latency_ms, run.latency
        for number in (0, 1):
            best = ~beaten(np.column_stack([loss, ms[:, number]]))
            assert sorted(run.front_on(number)) == np.flatnonzero(best).tolist()
        objectives = ms if joint == "each" else slowest[:, None]
        together = ~beaten(np.column_stack([loss, objectives]))
        assert sorted(run.search.front.tolist()) == np.flatnonzero(together).tolist()
        within = np.flatnonzero(together & (loss <= 3.0))
        assert slowest[run.chosen["chosen"]] == slowest[within].min()
        assert slowest[run.chosen["chosen"]] == pytest.approx(slowest[loss <= 3.0].min())


def test_each_device_would_have_chosen_another_student(root: Path, copied: Path) -> None:
    fastest = {}
    for number, name in enumerate((FIRST, SECOND)):
        run = Run(settings(root), RunStore(copied))
        row = min(run.front_on(number), key=lambda row, run=run, number=number: run.latency_ms[row, number])
        fastest[name] = set(run.name_row(run.search.assignments[row].tolist()).values())
    assert fastest == {FIRST: {"half_res"}, SECOND: {"conv3_res"}}
    alone = Run(settings(root, also=()), RunStore(copied))
    assert all("conv3_res" not in names for names in alone.options.values())


def test_the_joint_front_is_measured_on_all_devices(whole: Path) -> None:
    figures = json.loads((whole / "result.json").read_text())
    joint, devices = figures["joint"], {row["name"]: row for row in figures["devices"]}
    assert joint["by"] == "each"
    assert joint["front"]
    for row in joint["front"]:
        assert row["measured"]
        assert row["latency_ms"] == pytest.approx(row["predicted_latency_ms"])
        assert row["latency_ms"].keys() == {FIRST, SECOND}
    for row in joint["front"]:
        shares = [ms / devices[name]["teacher"]["latency_ms"]["median"] for name, ms in row["latency_ms"].items()]
        assert row["slowest"] == pytest.approx(max(shares))


def test_quality_is_evaluated_once_and_nothing_is_repeated(
    whole: Path, root: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the same command, nor with the devices in another order: blocks are known, networks are not drawn
    anew, and only what depends on the student is."""
    (log,) = (whole / "artifacts" / "search").glob("evaluations.*.jsonl")
    assert len([line for line in log.read_text().splitlines() if line]) == 27
    calls: Counter[str] = Counter()

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls["measure"] += 1
        return measure_modules(*args, **kwargs)

    monkeypatch.setattr(stages.latency, "measure_modules", counted)
    monkeypatch.setattr(PrefixScores, "psnr_db", lambda *_: pytest.fail("quality is known"))
    again = refit(settings(root), copied)
    before = json.loads((whole / "result.json").read_text())
    assert {**again, "seconds": 0} == {**before, "seconds": 0}
    assert not calls
    turned = settings(root).model_dump(mode="json")
    turned["device"] |= {"name": SECOND, "also": [FIRST]}
    run = Run(parse_config(turned, "test"), RunStore(copied))
    assert [bench.latency_table.device["hardware"] for bench in run.profiled] == ["npu", "processor"]
    assert not calls


def test_a_device_that_dies_costs_the_others_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies after a block. The other one, on its own machine, is measured to the end; the same command goes on."""
    use(monkeypatch)
    timed: Counter[str] = Counter()

    def dying(device: Priced, *args: Any, **kwargs: Any) -> Any:
        if device.name == "processor" and timed["processor"] == 1 and "dead" not in timed:
            timed["dead"] += 1
            raise DeviceLost("the machine does not answer")
        found = measure_modules(device, *args, **kwargs)
        timed[device.name] += 1
        return found

    monkeypatch.setattr(stages.latency, "measure_modules", dying)
    with pytest.raises(DeviceLost, match=f"^{FIRST}: the machine does not answer$"):
        refit(settings(root), tmp_path)
    blocks = len({site.shape_key for site in Run(settings(root), RunStore(tmp_path)).sites})
    assert timed == {"processor": 1, "npu": blocks, "dead": 1}
    assert len(list((tmp_path / "artifacts" / "profile").glob("*.json"))) == blocks + 1
    figures = refit(settings(root), tmp_path)
    # Blocks, networks, and teacher with student.
    assert timed == {"processor": blocks + 2, "npu": blocks + 2, "dead": 1}
    assert [row["name"] for row in figures["devices"]] == [FIRST, SECOND]


def test_what_one_device_refuses_leaves_the_space_and_is_said(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, **{SECOND: npu(refuses=("HalfResolution",))})
    run = Run(settings(root), RunStore(tmp_path))
    assert run.lost == {SECOND: {"half_res": 3}}
    assert {row.reason for row in run.space.refused} == {f"{SECOND}: the fake device refuses HalfResolution"}
    assert set(run.options.values()) == {("keep", "conv3_res")}
    _, document = stage_table("profile", run)
    (warning,) = document["warnings"]
    assert warning.startswith(f"{SECOND} does not run half_res at 3 sites, which other devices")
    use(monkeypatch, **{FIRST: processor(("HalfResolution",)), SECOND: npu(("HalfResolution",))})
    both = Run(settings(root), RunStore(tmp_path / "both"))
    assert both.lost == {}


def test_a_limit_on_the_latency_holds_on_each_device(root: Path, copied: Path) -> None:
    """Here only what is dense everywhere meets it on the one, and what is fast on the other does not."""
    for joint in ("each", "slowest"):
        free = Run(settings(root, joint=joint), RunStore(copied))
        most = float(np.median(free.latency_ms.max(axis=1)))
        run = Run(settings(root, joint=joint, max_latency_ms=most), RunStore(copied))
        assert [limit.name for limit in run.limits] == [f"max_latency_ms on {name}" for name in (FIRST, SECOND)]
        assert len(run.search.front)
        assert (run.latency_ms[run.search.front] <= most + 1e-9).all()
        for number in (0, 1):
            assert (run.latency_ms[run.front_on(number)] <= most + 1e-9).all()
    with pytest.raises(
        SearchError, match=rf"max_latency_ms on {SECOND} = 0\.001 cannot be met: the least possible is 2\."
    ):
        Run(settings(root, max_latency_ms=0.001), RunStore(copied)).search  # noqa: B018
    figures = refit(settings(root, max_latency_ms=most), copied)
    limits = figures["student"]["limits"]
    assert limits.keys() == {f"max_latency_ms on {name}" for name in (FIRST, SECOND)}
    for row in figures["devices"]:
        limit = limits[f"max_latency_ms on {row['name']}"]
        assert limit["delivered"] == row["student"]["latency_ms"]["median"] <= limit["limit"] == most
        assert limit["met"]


def test_a_limit_may_be_one_device_s(root: Path, copied: Path) -> None:
    for joint in ("each", "slowest"):
        run = Run(settings(root, joint=joint, max_latency_ms={SECOND: 6.0}), RunStore(copied))
        assert [str(limit) for limit in run.limits] == [f"max_latency_ms on {SECOND} = 6"]
        ms = run.latency_ms[run.front_on(0)]
        assert (ms[:, 1] <= 6.0).all()
        assert (ms[:, 0] > 6.0).any()
    with pytest.raises(ConfigError, match=r"unknown device of this run .*'openvin'.*openvino"):
        settings(root, max_latency_ms={"openvin": 6.0})
    for nonsense in (0, "fast", {SECOND: -1.0}, {SECOND: True}, float("nan")):
        with pytest.raises(ConfigError, match="must be milliseconds above 0, or such by device, but it is"):
            settings(root, max_latency_ms=nonsense)


def test_tables_and_the_report_name_the_devices(root: Path, copied: Path) -> None:
    run = Run(settings(root), RunStore(copied))
    table, document = stage_table("search", run)
    assert [column.header for column in table.columns][2:5] == [f"{FIRST} ms", f"{SECOND} ms", "slowest / teacher"]
    assert document["front"][0]["devices_ms"].keys() == {FIRST, SECOND}
    profile, _ = stage_table("profile", run)
    assert set(profile.columns[0].cells) == {FIRST, SECOND}
    shown = list(result_table(json.loads((copied / "result.json").read_text())).columns[0].cells)
    assert {f"latency_ms, {FIRST}", f"latency_ms, {SECOND}"} <= set(shown)
    page = (copied / "report.html").read_text()
    assert f", refitted to {FIRST} and {SECOND}" in page
    assert '<section id="devices">' in page
    for name in ("front", "front-1", "front-2"):
        assert f'data-for="plot-{name}"' in page


def test_a_device_that_is_named_twice_is_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name before anything is done, by what it is when it is opened."""
    with pytest.raises(ConfigError, match="the device fake is named twice"):
        settings(root, also=(FIRST,))
    with pytest.raises(ConfigError, match=r"unknown device 'openvin'.*openvino"):
        settings(root, also=("openvin",))
    use(monkeypatch, **{SECOND: processor()})
    with pytest.raises(ConfigError, match=f"{FIRST} and {SECOND} are the same device"):
        refit(settings(root), tmp_path)


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        (["fake", "fake"], "the device fake is named twice"),
        (["fake", "nothing"], "unknown device 'nothing'"),
        (["fake", "onnxruntime:cuda"], "onnxruntime:cuda: "),
    ],
)
def test_bad_devices_are_one_line_on_the_command_line(
    devices: list[str],
    said: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A missing one is noticed before anything is trained."""
    path = tmp_path / "run.toml"
    path.write_text(f'size = [64, 64]\n[teacher]\npath = "{root / "teacher.safetensors"}"\n')
    options = itertools.chain.from_iterable(("--device", name) for name in devices)
    monkeypatch.setattr(sys, "argv", ["netgraft", "run", str(path), "--out", str(tmp_path / "run"), *options])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line
    assert not list((tmp_path / "run").glob("artifacts/surrogates/*"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_two_runtimes_on_this_machine_from_the_command_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One student for both, and each computes what PyTorch does."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text(settings(root, also=()).model_dump_json())
    devices = ["--device", "onnxruntime", "--device", "openvino"]
    monkeypatch.setattr(sys, "argv", ["netgraft", "run", "--out", str(out), *devices, "--json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert [row["name"] for row in figures["devices"]] == ["onnxruntime", "openvino"]
    for row in figures["devices"]:
        assert row["student"]["difference_max_abs"] < 1e-3
        assert row["student"]["latency_ms"]["median"] > 0
    assert json.loads((out / "config.json").read_text())["device"]["also"] == ["openvino"]
