"""LPIPS against its definition in plain loops, with weights drawn at random; the trained ones are not at hand here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import correlate

from netgraft.errors import CheckpointError, ImageError
from netgraft.imaging.lpips import ALEXNET, TAPS, Lpips, LpipsDistance, open_lpips

STRIDES, PADDINGS = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)


def files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Both sets of weights where they are looked for, as their authors name them."""
    generator = torch.Generator().manual_seed(0)
    sides, before, alexnet, linear = (11, 5, 3, 3, 3), 3, {}, {}
    for number, ((position, channels), side) in enumerate(zip(TAPS, sides, strict=True)):
        fan = before * side * side
        alexnet[f"features.{position}.weight"] = (
            torch.randn(channels, before, side, side, generator=generator) / fan**0.5
        )
        alexnet[f"features.{position}.bias"] = 0.1 * torch.randn(channels, generator=generator)
        linear[f"lin{number}.model.1.weight"] = torch.rand(1, channels, 1, 1, generator=generator)
        before = channels
    alexnet["classifier.6.weight"] = torch.zeros(2, 2)
    hub = folder / "hub"
    package = folder / "site" / "lpips"
    (hub / "checkpoints").mkdir(parents=True)
    (package / "weights" / "v0.1").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('it is read as data')")
    torch.save(alexnet, hub / "checkpoints" / ALEXNET)
    torch.save(linear, package / "weights" / "v0.1" / "alex.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    monkeypatch.syspath_prepend(str(package.parent))
    return alexnet, linear


def by_definition(
    a: np.ndarray, b: np.ndarray, alexnet: dict[str, torch.Tensor], linear: dict[str, torch.Tensor]
) -> float:
    def taps(image: np.ndarray) -> list[np.ndarray]:
        x = image.transpose(2, 0, 1) / 127.5 - 1
        x = (x - np.array([-0.030, -0.088, -0.188])[:, None, None]) / np.array([0.458, 0.448, 0.450])[:, None, None]
        found = []
        for number, (position, _) in enumerate(TAPS):
            if number in (1, 2):
                h, w = ((n - 3) // 2 + 1 for n in x.shape[1:])
                x = np.stack(
                    [[x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(w)] for i in range(h)]
                )
                x = x.transpose(2, 0, 1)
            weight, bias = (alexnet[f"features.{position}.{part}"].double().numpy() for part in ("weight", "bias"))
            pad = PADDINGS[number]
            x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
            step = STRIDES[number]
            x = np.stack([correlate(x, kernel, "valid")[0, ::step, ::step] for kernel in weight])
            x = np.maximum(x + bias[:, None, None], 0)
            found.append(x)
        return found

    total = 0.0
    for number, (first, second) in enumerate(zip(taps(a), taps(b), strict=True)):
        unit = [x / (np.sqrt((x**2).sum(0)) + 1e-10) for x in (first, second)]
        weights = linear[f"lin{number}.model.1.weight"].double().numpy().reshape(-1, 1, 1)
        total += float((weights * (unit[0] - unit[1]) ** 2).sum(0).mean())
    return total


def test_it_is_its_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alexnet, linear = files(tmp_path, monkeypatch)
    distance = open_lpips()
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 35, 39, 3)).astype(np.uint8)
    assert distance(a, b) == pytest.approx(by_definition(a, b, alexnet, linear), rel=1e-4)
    assert distance(a, a) == 0


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, monkeypatch)
    linear = tmp_path / "site/lpips/weights/v0.1/alex.pth"
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, linear)
    with pytest.raises(CheckpointError, match=r"lack 'lin1\.model\.1\.weight'"):
        open_lpips()
    linear.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="cannot read"):
        open_lpips()
    (tmp_path / "hub/checkpoints" / ALEXNET).unlink()
    with pytest.raises(CheckpointError, match=f"put {ALEXNET} into"):
        open_lpips()


def test_without_its_authors_package_there_is_none() -> None:
    with pytest.raises(CheckpointError, match="pip install --no-deps lpips"):
        open_lpips()


def test_untrained_it_finds_no_difference() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    assert LpipsDistance(Lpips())(image, image + np.uint8(9)) == 0
    with pytest.raises(ImageError, match="LPIPS needs 31 pixels"):
        LpipsDistance(Lpips())(image[:30], image[:30])
