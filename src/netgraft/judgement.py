"""Networks judged side by side on one set of images: every figure with its interval, its differences, its protocol."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from netgraft.data.images import ImagePair
from netgraft.data.testset import TestSet
from netgraft.entrants import DEGRADED, Entrant
from netgraft.errors import ConfigError, DatasetError
from netgraft.evaluate import evaluate_all
from netgraft.imaging import RgbImage
from netgraft.protocol import METRICS, Protocol, checksum
from netgraft.restore import Restorer
from netgraft.scores import FIGURES, Bits, Evaluation, ImageScore, Scorer, difficulty_bins

Inference = Literal["whole", "tiles", "crop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What several networks achieve by one protocol."""

    protocol: Protocol
    entrants: Mapping[str, Entrant]
    evaluations: Mapping[str, Evaluation]
    """By name, ``degraded`` first."""
    lpips: str
    """How LPIPS was computed, or why it was not."""

    def differences(self, figure: str = "psnr_db") -> list[dict[str, Any]]:
        """Mean paired difference of every two networks, later less earlier, with its interval."""
        return [
            {"of": later, "less": earlier, "figure": figure}
            | self.evaluations[later].less(self.evaluations[earlier], figure).as_dict()
            for earlier, later in combinations(self.evaluations, 2)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What an evaluation before this one wrote."""

    path: Path
    protocol: Protocol
    evaluations: Mapping[str, Evaluation]
    """By name, without the degraded images."""


def judge(
    entrants: Mapping[str, Entrant],
    tests: TestSet,
    *,
    inference: Inference = "tiles",
    side: int | None = None,
    bits: Bits = 8,
    aligned: bool = False,
    lpips: Callable[[Any, Any], float] | str = "not asked for",
    earlier: Earlier | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Judgement:
    """Judge networks, by name, on images.

    inference: ``whole`` images, ``tiles`` of ``side`` pixels, or the central ``crop`` of so many, run whole.
    lpips: the distance, or the reason for which it is left out. earlier: what it is going to be compared with.

    Raises:
        ConfigError: the networks cannot run so, or take other images than these.
        DatasetError: an image is too small, or cannot serve the protocol.
    """
    if aligned and bits == 16:
        raise ConfigError("aligned images are compared in 8 bits, as RealBlur's authors do: use --bits 8")
    if inference == "crop" and side is None:
        raise ConfigError("a central crop needs its side in pixels: --size N")
    for name, entrant in entrants.items():
        if entrant.restorer.channels != (6 if tests.dual else 3):
            need = "one image, (h, w, 3)" if entrant.restorer.channels == 3 else "two views, (h, w, 6)"
            raise ConfigError(f"{name} takes {need}, which {tests.dataset} does not give: name another dataset")
    ready = {name: _prepared(entrant.restorer, inference, side) for name, entrant in entrants.items()}
    pieces = dict.fromkeys(f"central crop of {side}" if inference == "crop" else r.pieces for r in ready.values())
    if len(pieces) > 1:
        raise ConfigError(
            f"networks that run in different pieces cannot be compared: {'; '.join(pieces)}; set --inference and --size"
        )
    scorer = Scorer(bits=bits, aligned=aligned, lpips=None if isinstance(lpips, str) or aligned else lpips)
    images = tests.images
    crop = side if inference == "crop" else None
    protocol = Protocol(
        dataset=tests.dataset,
        split=tests.split,
        degradation=tests.degradation,
        images=len(images),
        published=tests.published,
        names=checksum(images.names),
        views="dual" if tests.dual else "single",
        inference=next(iter(pieces), "none"),
        bits=bits,
        alignment="RealBlur's homography" if aligned else "none",
    )
    if earlier is not None:
        # Before the work, which would be for nothing.
        protocol.require_same(earlier.protocol, str(earlier.path))
    evaluations = evaluate_all(
        {DEGRADED: as_it_is, **ready},
        images if crop is None else (_central(image, crop) for image in images),
        scorer=scorer,
        progress=lambda done: progress(done, len(images)),
    )
    if scorer.lpips is not None:
        told = "AlexNet, version 0.1, 8-bit RGB"
    else:
        told = "none: not defined on aligned images" if aligned else f"none: {lpips}"
    return Judgement(protocol=protocol, entrants=entrants, evaluations=evaluations, lpips=told)


def as_it_is(image: RgbImage) -> RgbImage:
    """The degraded image itself; of two views their mean, which is what the whole sensor saw."""
    if image.shape[2] == 3:
        return image
    left, right = image[:, :, :3].astype(np.uint32), image[:, :, 3:].astype(np.uint32)
    return ((left + right + 1) // 2).astype(image.dtype)  # type: ignore[return-value]


def _prepared(restorer: Restorer, inference: Inference, side: int | None) -> Restorer:
    if inference == "tiles":
        return restorer if side is None or restorer.fixed == (side, side) else restorer.in_tiles(side)
    if inference == "crop" and restorer.fixed == (side, side):
        return restorer
    return restorer.in_tiles(None)


def _central(image: ImagePair, side: int) -> ImagePair:
    h, w = image.clean.shape[:2]
    if min(h, w) < side:
        raise DatasetError(f"{image.name} has {w}x{h} pixels, less than a crop of {side}: set a smaller --size")
    top, left = (h - side) // 2, (w - side) // 2
    window = slice(top, top + side), slice(left, left + side)
    return replace(image, degraded=image.degraded[window], clean=image.clean[window])


def document(judgement: Judgement, bins: int = 0) -> dict[str, Any]:
    """Everything that is known, as plain data; figures that are not finite become None."""
    told: dict[str, Any] = {
        "protocol": judgement.protocol.as_dict(),
        "metrics": METRICS | {"lpips": judgement.lpips},
        "images": judgement.protocol.images,
        "networks": {
            name: {
                "source": entrant.source,
                "architecture": entrant.architecture,
                "statistics": entrant.statistics,
            }
            for name, entrant in judgement.entrants.items()
        },
    }
    told["means"] = {name: _means(evaluation) for name, evaluation in judgement.evaluations.items()}
    told["intervals"] = {
        name: {figure: evaluation.estimate(figure).as_dict() for figure in evaluation.figures}
        for name, evaluation in judgement.evaluations.items()
    }
    told["intervals_are"] = f"95 %, bootstrap {judgement.evaluations[DEGRADED].resampled}"
    told["differences"] = judgement.differences("psnr_db")
    groups = {name: evaluation.groups() for name, evaluation in judgement.evaluations.items()}
    told["groups"] = [
        {
            "group": group,
            "images": len(part.scores),
            "means": {name: _means(found[group]) for name, found in groups.items()},
        }
        for group, part in groups[DEGRADED].items()
    ]
    told["bins"] = [
        {
            "degraded_psnr_db": [_finite(part.low_db), _finite(part.high_db)],
            "images": len(part.evaluations[DEGRADED].scores),
            "means": {name: _means(evaluation) for name, evaluation in part.evaluations.items()},
            "gains": {
                name: evaluation.less(part.evaluations[DEGRADED]).as_dict()
                for name, evaluation in part.evaluations.items()
                if name != DEGRADED
            },
        }
        for part in (difficulty_bins(judgement.evaluations, judgement.evaluations[DEGRADED], bins) if bins else [])
    ]
    return told


def _means(evaluation: Evaluation) -> dict[str, Any]:
    return {figure: _finite(evaluation.mean(figure)) for figure in evaluation.figures}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rows(judgement: Judgement) -> dict[str, list[dict[str, Any]]]:
    """The scores of every image, by network."""
    return {
        name: [{key: _finite(value) for key, value in row.items()} for row in evaluation.as_rows()]
        for name, evaluation in judgement.evaluations.items()
    }


def as_csv(judgement: Judgement) -> str:
    """One line for each network and image, the protocol above them in lines that begin with ``#``."""
    text = io.StringIO()
    for name, value in judgement.protocol.as_dict().items():
        text.write(f"# {name}: {'not known' if value is None else value}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "name", "group", *FIGURES])
    for network, evaluation in judgement.evaluations.items():
        for score in evaluation.scores:
            figures = (getattr(score, figure) for figure in FIGURES)
            writer.writerow([network, score.name, score.group, *("" if f is None else f for f in figures)])
    return text.getvalue()


def read_earlier(path: Path) -> Earlier:
    """An evaluation as ``netgraft evaluate --out`` wrote it.

    Raises:
        ConfigError: the file holds none, or one of another version.
    """
    refusal = f"{path}: holds no evaluation of this version: name a file that --out of netgraft evaluate wrote"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        protocol, scores = dict(stored["protocol"]), dict(stored["scores"])
        found = {
            name: Evaluation(scores=tuple(_SCORES.validate_python([_with_infinity(row) for row in rows])))
            for name, rows in scores.items()
        }
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(refusal) from error
    evaluations = {name: evaluation for name, evaluation in found.items() if name != DEGRADED}
    if not evaluations:
        raise ConfigError(refusal)
    return Earlier(path=path, protocol=Protocol.from_dict(protocol), evaluations=evaluations)


_SCORES = TypeAdapter(list[ImageScore])


def _with_infinity(row: Mapping[str, Any]) -> dict[str, Any]:
    """Equal images have an infinite PSNR, which JSON cannot hold."""
    return dict(row) | ({"psnr_db": math.inf} if row["psnr_db"] is None else {})


def against(judgement: Judgement, earlier: Earlier) -> list[dict[str, Any]]:
    """Paired differences to the networks of an earlier evaluation, by whose protocol these were judged.

    Raises:
        DatasetError: the two are not of the same images.
    """
    return [
        {"of": name, "less": f"{other} of {earlier.path.name}", "figure": "psnr_db"} | evaluation.less(before).as_dict()
        for name, evaluation in judgement.evaluations.items()
        if name != DEGRADED
        for other, before in earlier.evaluations.items()
    ]
