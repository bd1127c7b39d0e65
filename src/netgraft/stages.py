"""The stages of a run over its run folder: each computes its artifact once, and continues where it was stopped.

A stage pulls in what it needs, so asking for the last one runs all of them. Nothing is decided here that the
library functions below do not decide; this is where they meet configuration, storage and progress.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import netgraft.export
from netgraft.assemble import assemble, named_assignment
from netgraft.config import RunConfig
from netgraft.data.crops import CropStage, crop_batches
from netgraft.data.images import ImagePair, crops_of, fingerprint, train_source, whole_images
from netgraft.devices import (
    Device,
    FileDevice,
    Latency,
    MeasureProtocol,
    Unsupported,
    measure,
    measure_modules,
    open_device,
)
from netgraft.distill import Distillation, SurrogateKey, fit_surrogates, start_surrogates, surrogate_errors
from netgraft.errors import ConfigError, DeviceError, StoreError
from netgraft.evaluate import Evaluation, batch_psnr_db, evaluate
from netgraft.export import Export
from netgraft.features import site_features
from netgraft.finetune import Finetuning
from netgraft.latency import AdditivityReport, LatencyTable, additivity
from netgraft.nets.blocks import deploy
from netgraft.nets.load import Teacher, load_teacher
from netgraft.operators import Operator, operator_pool, options_for
from netgraft.restore import open_restorer
from netgraft.saliency import Protection, protect, saliency
from netgraft.search import EvaluationError, SearchResult, knee, minimize
from netgraft.sites import KEEP, Site, find_sites, paper_sites, select_sites
from netgraft.store import RunStore, digest

CHECKPOINT_SECONDS = 20.0
"""Longest work that a kill in the middle of a training can cost."""


class Progress(Protocol):
    """Told how far a stage is; ``done`` of ``total`` units."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An option that left the space before the search."""

    site: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What the search chooses from."""

    sites: tuple[Site, ...]
    """Sites that take part, in data-flow order."""
    options: tuple[tuple[str, ...], ...]
    """Operators on offer at each, ``keep`` first."""
    refused: tuple[Refused, ...]
    """Options that were left out, with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogates:
    """Trained replacement modules and how they learned."""

    modules: dict[SurrogateKey, nn.Module]
    losses: dict[SurrogateKey, list[float]]
    """Normalized L2 by training step; empty for those that are fitted or exact."""
    errors: dict[SurrogateKey, float]
    """Normalized L2 on the calibration features, at the end."""


class Run:
    """One run: a config, a folder, and every stage's artifact as an attribute."""

    def __init__(self, config: RunConfig, store: RunStore, progress: Progress = silent) -> None:
        self.config = config
        self.store = store
        self.progress = progress

    # --- the network and its sites

    @cached_property
    def teacher(self) -> Teacher:
        """The pretrained network."""
        teacher = load_teacher(self.config.teacher.path, tlc=self.config.teacher.tlc)
        if any(side % teacher.size_multiple for side in self.config.size):
            raise ConfigError(f"size {list(self.config.size)}: this network needs multiples of {teacher.size_multiple}")
        return teacher

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every site of the teacher."""
        return find_sites(self.teacher.module, self.config.size)

    @cached_property
    def pool(self) -> Mapping[str, Operator]:
        """The operators on offer."""
        return operator_pool(self.config.space.operators)

    @cached_property
    def candidates(self) -> tuple[Site, ...]:
        """The sites that the config names; the protected ones are still among them."""
        chosen = self.config.space.sites
        if chosen == "all":
            return self.sites
        return paper_sites(self.sites) if chosen == "paper" else select_sites(self.sites, chosen)

    @cached_property
    def origin(self) -> dict[str, Any]:
        """What everything in this run depends on: the teacher's weights, the images and the seed."""
        weights = hashlib.sha256()
        for name, tensor in self.teacher.module.state_dict().items():
            weights.update(name.encode() + tensor.contiguous().numpy().tobytes())
        config = self.config
        return {
            "teacher": weights.hexdigest(),
            "tlc": config.teacher.tlc,
            "data": fingerprint(config.data),
            "seed": config.seed,
            "size": config.size,
        }

    # --- saliency

    @cached_property
    def saliency(self) -> dict[str, NDArray[np.float64]]:
        """Each metric's value for every site."""
        config = self.config.saliency
        wanted = dict.fromkeys((*config.metrics, self.config.space.protect_by))
        with self._timed("saliency"):
            size = (config.crop, config.crop)
            degraded, clean = crops_of(self.config.data, "train", count=config.crops, size=size, seed=self.config.seed)
            scores = {}
            for number, metric in enumerate(wanted):
                self.progress("saliency", number, len(wanted))
                key = {"origin": self.origin, "crops": config.crops, "crop": config.crop, "metric": metric}
                make = partial(self._saliency, metric, degraded, clean)
                scores[metric] = np.array(self.store.json(f"saliency/{metric}", key, make))
        return scores

    def _saliency(self, metric: str, degraded: Tensor, clean: Tensor) -> list[float]:
        scores = saliency(self.teacher.module, degraded, clean, self.sites, metric=metric)
        return [float(score) for score in scores]

    @cached_property
    def protection(self) -> Protection:
        """The sites that keep the teacher's block, and why."""
        config = self.config.space
        positions = [self.sites.index(site) for site in self.candidates]
        return protect(
            self.candidates,
            self.saliency[config.protect_by][positions],
            metric=config.protect_by,
            top=min(config.protect_top, len(self.candidates)),
            named=config.protect,
        )

    @cached_property
    def open_sites(self) -> tuple[Site, ...]:
        """The sites that may change."""
        found = tuple(site for site in self.candidates if site.path not in self.protection.paths)
        if not found:
            raise ConfigError(
                f"all {len(self.candidates)} sites are protected, so that nothing may change: "
                "name more in space.sites, or lower space.protect_top"
            )
        return found

    # --- surrogates

    @cached_property
    def surrogates(self) -> Surrogates:
        """A trained replacement for every operator at every open site."""
        with self._timed("distill"):
            modules = start_surrogates(self.teacher.module, self.open_sites, self.pool, seed=self.config.seed)
            paths = {key: self._surrogate_path(key) for key in modules}
            missing = {key: module for key, module in modules.items() if not paths[key].exists()}
            if missing:
                self._distill(missing, paths)
            stored = {key: self.store.load_tensors(path) for key, path in paths.items()}
        for key, module in modules.items():
            module.load_state_dict(stored[key]["module"])
            module.eval()
        return Surrogates(
            modules=modules,
            losses={key: entry["losses"] for key, entry in stored.items()},
            errors={key: entry["error"] for key, entry in stored.items()},
        )

    def _surrogate_path(self, key: SurrogateKey) -> Path:
        made_from = {"schema": 1, "origin": self.origin, "distill": self.config.distill.model_dump(), "key": key}
        return self.store.path(f"surrogates/{key[0]}.{key[1]}", made_from, ".pt")

    def _distill(self, modules: dict[SurrogateKey, nn.Module], paths: Mapping[SurrogateKey, Path]) -> None:
        config, data = self.config.distill, self.config.data
        degraded, _ = crops_of(data, "train", count=8, size=(config.crop, config.crop), seed=self.config.seed)
        features = site_features(self.teacher.module, degraded, self.open_sites)
        fit_surrogates(modules, features)
        work = Distillation(self.teacher.module, self.open_sites, modules, self.pool, config)
        progress_path = self.store.path("surrogates/progress", sorted(str(paths[key]) for key in modules), ".pt")
        if progress_path.exists():
            work.load_state(self.store.load_tensors(progress_path))
        save = _Every(CHECKPOINT_SECONDS)

        def on_step(now: Distillation) -> None:
            self.progress("distill", now.step, config.steps)
            if save.due():
                self.store.save_tensors(progress_path, now.state())

        source = train_source(data, fraction=config.data_fraction, seed=self.config.seed)
        stage = CropStage(steps=config.steps, size=config.crop, batch=config.batch)
        batches = crop_batches(source, [stage], seed=self.config.seed, first_step=work.step)
        work.run((degraded for degraded, _ in batches), on_step)
        errors = surrogate_errors(modules, features)
        for key, module in modules.items():
            entry = {
                "module": module.state_dict(),
                "losses": work.losses.get(key, []),
                "error": errors[key],
            }
            self.store.save_tensors(paths[key], entry)
        progress_path.unlink(missing_ok=True)

    # --- latency

    @cached_property
    def device(self) -> Device:
        """What the latencies are measured on."""
        return open_device(self.config.device.name, self.config.device.threads)

    @cached_property
    def latency_table(self) -> LatencyTable:
        """Every operator's latency at every site's shape; sites of one shape share a session."""
        shapes: dict[str, list[Site]] = {}
        for site in self.sites:
            shapes.setdefault(site.shape_key, []).append(site)
        with self._timed("profile"):
            entries: dict[tuple[str, str], Latency | Unsupported] = {}
            for number, (shape, sites) in enumerate(shapes.items()):
                self.progress("profile", number, len(shapes) + 1)
                names = options_for(sites[0], self.pool)
                rows = self.store.json(
                    f"profile/{shape.replace(':', '_')}",
                    self._profile_key(names),
                    partial(self._profile, sites[0], names),
                )
                entries |= {(shape, name): _latency_from(row) for name, row in rows.items()}
            self.progress("profile", len(shapes), len(shapes) + 1)
            whole = self.store.json("profile/teacher", self._profile_key(()), self._profile_teacher)
        return LatencyTable(
            device=self.device.description.as_dict(),
            size=self.config.size,
            protocol=self._protocol(self.config.device.samples).as_dict(),
            site_keys={site.path: site.shape_key for site in self.sites},
            entries=entries,
            teacher=_latency_from(whole),  # type: ignore[arg-type]
        )

    def _profile_key(self, operators: tuple[str, ...]) -> dict[str, Any]:
        return {
            "device": self.device.description.as_dict(),
            "size": self.config.size,
            "shape": asdict(self.teacher.shape),
            "samples": self.config.device.samples,
            "operators": operators,
        }

    def _profile(self, site: Site, operators: tuple[str, ...]) -> dict[str, Any]:
        """All operators at one site, timed in turns."""
        block, example = self.teacher.module.get_submodule(site.path), site.example(self.config.size)
        modules = {name: deploy(block if name == KEEP else self.pool[name].start(block, site)) for name in operators}
        timed = measure_modules(
            self.device,
            {name: (module, example) for name, module in modules.items()},
            self._protocol(self.config.device.samples),
        )
        return {name: _latency_row(entry) for name, entry in timed.items()}

    def _profile_teacher(self) -> dict[str, Any]:
        samples = self.config.device.whole_samples
        return self._measure_whole({KEEP: self.teacher.module}, samples)[KEEP]

    def _measure_whole(self, networks: Mapping[str, nn.Module], samples: int) -> dict[str, dict[str, Any]]:
        """Whole networks in their deployed form, in turns."""
        example, done = self._example(), iter(range(1, len(networks) + 1))
        timed = measure_modules(
            self.device,
            {name: (deploy(network), example) for name, network in networks.items()},
            self._protocol(samples),
            lambda _: self.progress("measure", next(done), len(networks)),
        )
        for name, entry in timed.items():
            if isinstance(entry, Unsupported):
                raise DeviceError(f"the device does not run a whole network ({name}): {entry.reason}")
        return {name: _latency_row(entry) for name, entry in timed.items()}

    def _example(self) -> Tensor:
        degraded, _ = crops_of(self.config.data, "validation", count=1, size=self.config.size)
        return degraded

    def _protocol(self, samples: int) -> MeasureProtocol:
        return MeasureProtocol(samples=samples, seed=self.config.seed)

    @cached_property
    def additivity(self) -> AdditivityReport:
        """Random assignments, measured whole and interleaved, against the sums of their blocks."""
        rng = np.random.default_rng(self.config.seed)
        rows = [
            [int(rng.integers(len(names))) for names in self.space.options]
            for _ in range(self.config.device.check_networks)
        ]
        names = [self.name_row(row) for row in rows]
        with self._timed("profile"):
            key = {"profile": self._profile_key(()), "names": names, "samples": self.config.device.whole_samples}
            measured = self.store.json("profile/whole", key, lambda: self._measure_assignments(names))
        return additivity(
            [self.latency_table.additive_ms(assignment) for assignment in names],
            [row["median_ms"] for row in measured],
        )

    def _measure_assignments(self, assignments: list[dict[str, str]]) -> list[dict[str, Any]]:
        networks = {
            # Calibrated, or what is frozen in many places at once may diverge, which devices refuse.
            str(number): self.student_of(assignment)
            for number, assignment in enumerate(assignments)
        }
        return list(self._measure_whole(networks, self.config.device.whole_samples).values())

    # --- the search

    @cached_property
    def space(self) -> Space:
        """Sites and options that are worth searching."""
        options, refused = [], []
        for site in self.open_sites:
            kept, left_out = self._worthwhile(site)
            options.append(kept)
            refused += left_out
        return Space(sites=self.open_sites, options=tuple(options), refused=tuple(refused))

    def _worthwhile(self, site: Site) -> tuple[tuple[str, ...], list[Refused]]:
        """The options of a site that no other beats in both latency and feature error."""
        table, errors = self.latency_table, self.surrogates.errors
        names = options_for(site, self.pool)
        cost = {name: table.operator_ms(site.path, name) for name in names}
        error = {name: 0.0 if name == KEEP else errors[site.path, name] for name in names}
        kept, refused = [KEEP], []
        for name in names[1:]:
            entry = table.entry(site.path, name)
            if isinstance(entry, Unsupported):
                refused.append(Refused(site=site.path, operator=name, reason=entry.reason))
                continue
            better = [n for n in names if cost[n] < cost[name] and error[n] <= error[name]]
            if better:
                reason = f"{better[0]} is faster ({cost[better[0]]:.3f} against {cost[name]:.3f} ms) and closer"
                refused.append(Refused(site=site.path, operator=name, reason=reason))
            else:
                kept.append(name)
        return tuple(kept), refused

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor]:
        """The crops that the search judges by."""
        return crops_of(self.config.data, "validation", count=self.config.search.crops, size=self.config.size)

    @cached_property
    def calibration(self) -> Tensor:
        """The images that each assembled network is calibrated on."""
        degraded, _ = crops_of(
            self.config.data, "train", count=self.config.search.calibration, size=self.config.size, seed=1
        )
        return degraded

    @cached_property
    def teacher_validation_db(self) -> float:
        """The teacher's PSNR on the validation crops."""
        return batch_psnr_db(deploy(self.teacher.module), *self.validation)

    def student_of(self, assignment: Mapping[str, str]) -> nn.Module:
        """A new student, calibrated but not fine-tuned."""
        return assemble(self.teacher.module, assignment, self.surrogates.modules, calibration=self.calibration)

    def search_with(self, method: str) -> SearchResult:
        """The search by one method; every evaluation is kept as soon as it is known."""
        options, space = [list(names) for names in self.space.options], self.space
        fixed = self.latency_table.fixed_ms([site.path for site in space.sites])
        latencies = [
            # What does not change is spread over the sites, so that the known costs add up to the whole.
            [self.latency_table.operator_ms(site.path, name) + fixed / len(space.sites) for name in names]
            for site, names in zip(space.sites, options, strict=True)
        ]
        log = _EvaluationLog(self.store.path("search/evaluations", self._search_key(), ".jsonl"))
        budget = self.config.search.budget

        def costs(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.array([[self._quality_loss_db(row, log), np.nan] for row in rows.tolist()])

        try:
            return minimize(
                costs,
                [len(names) for names in options],
                budget=budget,
                method=method,
                reference_point=(self.config.search.max_loss_db * 3, sum(row[0] for row in latencies)),
                seed=self.config.seed,
                known={1: latencies},
                on_evaluation=lambda done, _row, _costs: self.progress(f"search {method}", done, budget),
            )
        except EvaluationError as error:
            # The objective is ours: what stopped it, a full disk say, is what the user must hear of.
            raise error.__cause__ or error from None

    def _search_key(self) -> dict[str, Any]:
        return {
            "origin": self.origin,
            "distill": self.config.distill.model_dump(),
            "crops": self.config.search.crops,
            "calibration": self.config.search.calibration,
        }

    def _quality_loss_db(self, row: list[int], log: _EvaluationLog) -> float:
        changed = {path: name for path, name in self.name_row(row).items() if name != KEEP}
        name = digest(changed)
        if name not in log:
            quality = batch_psnr_db(deploy(self.student_of(changed)), *self.validation)
            log.add(name, self.teacher_validation_db - quality)
        return log[name]

    @cached_property
    def search(self) -> SearchResult:
        """The search by the configured method."""
        with self._timed("search"):
            return self.search_with(self.config.search.method)

    @cached_property
    def baselines(self) -> dict[str, SearchResult]:
        """The same search by other methods, for comparison."""
        with self._timed("baselines"):
            return {method: self.search_with(method) for method in self.config.search.baselines}

    @cached_property
    def chosen(self) -> dict[str, int]:
        """Rows of the search: the ``knee``, the ``fastest`` of the front, and the one that becomes the student."""
        costs, front = self.search.costs, self.search.front
        fastest = int(front[np.argmin(costs[front, 1])])
        within = front[costs[front, 0] <= self.config.search.max_loss_db]
        # The teacher loses nothing, so that there is always one within the limit.
        points = {
            "knee": knee(costs),
            "fastest": fastest,
            "fastest_within": int(within[np.argmin(costs[within, 1])]) if len(within) else 0,
        }
        return points | {"chosen": points[self.config.search.choose]}

    @cached_property
    def assignment(self) -> dict[str, str]:
        """The student's operator at every site that may change."""
        return self.name_row(self.search.assignments[self.chosen["chosen"]].tolist())

    def name_row(self, row: list[int]) -> dict[str, str]:
        """Operator by site path of a row of the search."""
        return named_assignment(row, self.space.sites, self.space.options)

    # --- the student

    @cached_property
    def finetuned(self) -> tuple[nn.Module, list[float]]:
        """The fine-tuned student, and the loss of every step."""
        config = self.config.finetune
        with self._timed("finetune"):
            start = self.student_of(self.assignment)
            work = Finetuning(start, self.teacher.module, config)
            key = self._search_key() | {"assignment": self.assignment, "finetune": config.model_dump()}
            path = self.store.path("finetune/student", key, ".pt")
            if path.exists():
                work.load_state(self.store.load_tensors(path))
            save = _Every(CHECKPOINT_SECONDS)

            def on_step(now: Finetuning) -> None:
                self.progress("finetune", now.step, config.steps)
                if save.due():
                    self.store.save_tensors(path, now.state())

            source = train_source(self.config.data, seed=self.config.seed)
            stage = CropStage(steps=config.steps, size=config.crop, batch=config.batch)
            before = work.step
            # Another seed than the distillation's: the student should see other crops.
            work.run(crop_batches(source, [stage], seed=self.config.seed + 1, first_step=before), on_step)
            if work.step != before:
                self.store.save_tensors(path, work.state())
        return (work.average if config.steps else start), work.losses

    @cached_property
    def exports(self) -> dict[str, Export]:
        """Teacher and student as ONNX, with parity to PyTorch."""
        folder = self.store.root / "export"
        examples = torch.split(self.validation[0], 1)[:3]
        with self._timed("export"):
            found: dict[str, Export] = {}
            for name, module in (("teacher", self.teacher.module), ("student", self.finetuned[0])):
                self.progress("export", len(found), 2)
                found[name] = self._export(name, module, folder, examples)
        return found

    def _export(self, name: str, module: nn.Module, folder: Path, examples: Sequence[Tensor]) -> Export:
        key = self._search_key() | {"finetune": self.config.finetune.model_dump()}
        key |= {"name": name, "assignment": self.assignment if name == "student" else None}
        fixed, dynamic = folder / f"{name}.onnx", folder / f"{name}_dynamic.onnx"

        def make() -> dict[str, Any]:
            done = netgraft.export.export(module, folder, name, examples)
            return {
                "size_bytes": done.size_bytes,
                "parity_max_abs": done.parity_max_abs,
                "content": _digest_of_files(fixed, dynamic),
            }

        stored = self.store.json(f"export/{name}", key, make)
        if stored["content"] != _digest_of_files(fixed, dynamic):
            # Gone, or of another config that used this folder in between: both export under the same name.
            self.store.path(f"export/{name}", key, ".json").unlink()
            stored = self.store.json(f"export/{name}", key, make)
        return Export(
            fixed=fixed,
            dynamic=dynamic,
            size_bytes=stored["size_bytes"],
            parity_max_abs=stored["parity_max_abs"],
        )

    @cached_property
    def test_images(self) -> list[ImagePair]:
        """The images that are reported on, degraded and clean."""
        return whole_images(self.config.data, "test")

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """Scores on the test images of the degraded images, the exported teacher and the exported student."""
        key = self._search_key() | {
            "finetune": self.config.finetune.model_dump(),
            "assignment": self.assignment,
        }
        models = {"degraded": None, "teacher": self.exports["teacher"], "student": self.exports["student"]}
        with self._timed("evaluate"):
            scored = {}
            for number, (name, exported) in enumerate(models.items()):
                self.progress("evaluate", number, len(models))
                made_from = key if name == "student" else self.origin
                rows = self.store.json(f"evaluate/{name}", made_from, partial(self._evaluate, exported))
                scored[name] = Evaluation.from_rows(rows)
        return scored

    def _evaluate(self, exported: Export | None) -> list[dict[str, Any]]:
        """Scores of an exported network; None scores the degraded images as they are."""
        restorer = (lambda image: image) if exported is None else open_restorer(exported.fixed)
        return evaluate(restorer, self.test_images).as_rows()

    @cached_property
    def final_latency(self) -> dict[str, Latency]:
        """Exported teacher and student on the device, whole and interleaved in one session."""
        key = self._search_key() | {
            "finetune": self.config.finetune.model_dump(),
            "assignment": self.assignment,
            "profile": self._profile_key(()),
            "samples": self.config.device.final_samples,
        }
        with self._timed("measure"):
            self.progress("measure", 0, 1)
            rows = self.store.json("measure/final", key, self._measure_final)
        return {name: _latency_from(row) for name, row in rows.items()}  # type: ignore[misc]

    def _measure_final(self) -> dict[str, Any]:
        samples = self.config.device.final_samples
        if not isinstance(self.device, FileDevice):
            networks = {"teacher": self.teacher.module, "student": self.finetuned[0]}
            return self._measure_whole(networks, samples)
        # The very files that ship.
        running = {name: self.device.load(exported.fixed) for name, exported in self.exports.items()}
        inputs = dict.fromkeys(running, self._example().contiguous().numpy())
        try:
            timed = measure(running, inputs, self._protocol(samples), self.device.clock)
        finally:
            for runnable in running.values():
                runnable.close()
        return {name: _latency_row(latency) for name, latency in timed.items()}

    # --- bookkeeping

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time by stage, over every session that worked on this folder."""
        path = self.store.root / "artifacts" / "seconds.json"
        try:
            spent: dict[str, float] = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return spent

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        before = sum(self.seconds.values())
        try:
            yield
        finally:
            # A stage that pulled in an earlier one must not count its time twice.
            inner = sum(self.seconds.values()) - before
            spent = self.seconds
            spent[stage] = spent.get(stage, 0.0) + max(0.0, time.monotonic() - start - inner)
            self.store.write(self.store.root / "artifacts" / "seconds.json", json.dumps(spent).encode())


class _Every:
    """True at most once in a number of seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.last = time.monotonic()

    def due(self) -> bool:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


class _EvaluationLog:
    """Evaluations as lines of JSON, appended one by one; a line cut short by a kill is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, float] = {}
        if path.exists():
            for line in path.read_text(errors="replace").splitlines():
                try:
                    row = json.loads(line)
                    self.known[row["assignment"]] = row["quality_loss_db"]
                except (ValueError, KeyError, TypeError):
                    continue

    def __contains__(self, name: str) -> bool:
        return name in self.known

    def __getitem__(self, name: str) -> float:
        return self.known[name]

    def add(self, name: str, quality_loss_db: float) -> None:
        row = json.dumps({"assignment": name, "quality_loss_db": quality_loss_db})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                # Starting on a new line keeps a torn line from swallowing this one.
                file.write("\n" + row)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be written: {error.strerror}; what was done before is kept"
            ) from error
        self.known[name] = quality_loss_db


def _digest_of_files(*paths: Path) -> str | None:
    """Stands for what the files hold; None if one is missing."""
    content = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            return None
        content.update(hashlib.sha256(path.read_bytes()).digest())
    return content.hexdigest()


def _latency_row(entry: Latency | Unsupported) -> dict[str, Any]:
    return {"unsupported": entry.reason} if isinstance(entry, Unsupported) else asdict(entry)


def _latency_from(row: Mapping[str, Any]) -> Latency | Unsupported:
    return Unsupported(row["unsupported"]) if "unsupported" in row else Latency(**row)
