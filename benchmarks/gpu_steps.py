"""Images per second of training steps and predictions on a device, bare and ours, for benchmarks/gpu.py."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.loader import AUGMENT, CROP, MEAN, STD
from src.competition.kinds.single import Single
from src.config import build
from src.data.cache import ImageStore
from src.data.loader import Batch, batches
from src.data.on_device import Resident
from src.data.preprocess import Preprocess
from src.data.spec import Normalisation
from src.fold.network import make_learner, on_device, outputs_from
from src.fold.objective import labelled
from src.fold.plan import plan_fold
from src.inference.predict import predict
from src.inference.tta import parse_views
from src.training.checkpoint import CheckpointWriter
from src.training.device import make_accelerator
from src.training.engine import fit
from src.training.interrupt import StopWish
from src.training.progress import ProgressBar
from src.training.session import Progress, Session

CLASSES = 10
WARM = 5  # steps that choose kernels and make room
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# What timm's fine-tuning, and ours, is for: AdamW and an average of the weights. From scratch: SGD.
FINETUNED = {"optimizer": {"name": "adamw", "lr": 1e-3}, "average": {"ema": 0.999, "ema_every": 1, "swa": False}}
SCRATCH = {"optimizer": {"name": "sgd", "lr": 0.02}, "average": {"ema": 0.0, "swa": False}}


@dataclass(frozen=True)
class Case:
    """What one figure is of. images: whose rows are trained on; resident: the same on the device; workers: of a loader
    that has to make the batches."""

    model: str
    size: int
    precision: str
    batch: int
    steps: int
    device: str
    store: ImageStore
    resident: Resident
    workers: int

    def network(self, layout: torch.memory_format = torch.channels_last) -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model(self.model, num_classes=CLASSES).to(self.device, memory_format=layout)

    def fixed(self, layout: torch.memory_format = torch.channels_last) -> tuple[Tensor, Tensor]:
        x = torch.randn(self.batch, 3, self.size, self.size, device=self.device).to(memory_format=layout)
        return x, torch.arange(self.batch, device=self.device) % CLASSES

    def autocast(self, **more: Any) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device, TYPES[self.precision], **more)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def paced(case: Case, step: Callable[[], object]) -> float:
    for _ in range(WARM):
        step()
    wait(case.device)
    began = time.perf_counter()
    for _ in range(case.steps):
        step()
    wait(case.device)
    return case.steps * case.batch / (time.perf_counter() - began)


# ---- training -------------------------------------------------------------------------------------------------------


def bare(case: Case, layout: torch.memory_format = torch.channels_last, compiled: str | None = None) -> float:
    """Forward, backward and step on one fixed batch. compiled: a mode of torch.compile."""
    network, (x, y) = case.network(layout).train(), case.fixed(layout)
    if compiled is not None:
        network.compile(mode=compiled, dynamic=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(case.device, enabled=case.precision == "fp16")

    def step() -> None:
        with case.autocast():
            loss = cross_entropy(network(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return paced(case, step)


def graphed(case: Case) -> float:
    """The same step recorded once as a CUDA graph and played back; without a loss scale, which asks the host."""
    network, (x, y) = case.network().train(), case.fixed()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def step() -> None:
        optimizer.zero_grad()
        with case.autocast(cache_enabled=False):
            loss = cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()

    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return paced(case, graph.replay)


def timm_step(case: Case) -> float:
    """What timm's train.py does in a step of fine-tuning, on one fixed batch: AdamW, loss scale in fp16, EMA."""
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3, NativeScaler

    network, (x, y) = case.network().train(), case.fixed()
    optimizer = create_optimizer_v2(network, "adamw", lr=1e-3, weight_decay=0.05)
    ema = ModelEmaV3(network, decay=0.999)
    scaler = NativeScaler(device=case.device) if case.precision == "fp16" else None

    def step() -> None:
        with case.autocast():
            loss = cross_entropy(network(x), y)
        if scaler is not None:
            scaler(loss, optimizer, parameters=network.parameters())
        else:
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()
        ema.update(network)

    return paced(case, step)


def ours(case: Case, keys: dict[str, Any], on: str, compiled: bool = False) -> float:
    """The project's loop with its plan, progress and averages, from cached images on disk (on="workers"), from images
    on the device, or on one fixed batch ("fixed")."""
    steps = WARM + case.steps + 1
    accelerator = make_accelerator(case.device, case.precision)
    values = {"size": case.size, "batch_size": case.batch, "model": {"name": case.model, "compile": compiled}}
    config = build({**values, **keys, "stages": [{"length": f"{steps} steps"}], "schedule": {"warmup": "0"}})
    rows, task = np.arange(len(case.store)), Single(np.array([str(label) for label in range(CLASSES)]))
    labels = rows % CLASSES
    learner = make_learner(config, on_device(case.network(), accelerator), accelerator)
    objective = labelled(task, labels, rows, outputs_from(config, task, labels), config.loss, accelerator.device)
    plan = plan_fold(config, rows, labels, AUGMENT)
    times: list[float] = []

    def timed(made: Iterator[Batch]) -> Iterator[Batch]:
        """`made`, with the time when the device had done WARM steps, and all but the last."""
        for number, batch in enumerate(made):
            if number in (WARM, WARM + case.steps):
                wait(case.device)
                times.append(time.perf_counter())
            yield batch

    orders, resident = plan.orders(), case.resident if on == "device" else None
    if on == "fixed":
        first = next(batches(case.store, orders, 0, accelerator.device, case.resident))
        made: Iterator[Batch] = iter([first] * steps)
    else:
        made = batches(case.store, orders, case.workers, accelerator.device, resident)
    with tempfile.TemporaryDirectory() as folder:
        writer = CheckpointWriter(Path(folder), 1)
        bar = ProgressBar(plan.stages, 0, "accuracy", False, lambda row: None, every=10**9)
        session = Session(bar, writer, 1e9, None, StopWish(), {})
        preprocess = Preprocess(Normalisation(MEAN, STD), accelerator.device)
        fit(learner, objective, plan, timed(made), preprocess, lambda *_: {}, session, Progress(0, [], 0.0))
        writer.wait()
    return case.steps * case.batch / (times[1] - times[0])


# ---- loading and predicting -----------------------------------------------------------------------------------------


def loaded(case: Case, on: str) -> float:
    """Batches until they are normalised on the device, by workers or from images there."""
    config = build({"size": case.size, "batch_size": case.batch, "stages": [{"length": f"{WARM + case.steps} steps"}]})
    rows = np.arange(len(case.store))
    plan = plan_fold(config, rows, rows % CLASSES, AUGMENT)
    resident = case.resident if on == "device" else None
    made = batches(case.store, plan.orders(), case.workers, torch.device(case.device), resident)
    preprocess = Preprocess(Normalisation(MEAN, STD), case.device)

    def step() -> None:
        batch = next(made)
        preprocess(batch.images[0], batch.colour)

    return paced(case, step)


def predicted(case: Case) -> float:
    """Images per second of the project's `predict` in eight views, from images cached on disk."""
    accelerator, rows = make_accelerator(case.device, case.precision), np.arange(len(case.store))
    network, preprocess = case.network().eval(), Preprocess(Normalisation(MEAN, STD), case.device)
    began = time.perf_counter()
    predict(
        network,
        case.store,
        rows,
        accelerator=accelerator,
        preprocess=preprocess,
        views=parse_views("d4"),
        size=case.size,
        crop=CROP,
        batch_size=case.batch,
        workers=case.workers,
    )
    return len(rows) / (time.perf_counter() - began)


def passed(case: Case) -> float:
    """As many forward passes over a fixed batch."""
    network, (x, _) = case.network().eval(), case.fixed()
    passes = -(-len(case.store) // case.batch) * len(parse_views("d4"))
    with torch.no_grad(), case.autocast():
        network(x)
        wait(case.device)
        began = time.perf_counter()
        for _ in range(passes):
            network(x)
        wait(case.device)
    return passes * case.batch / len(parse_views("d4")) / (time.perf_counter() - began)
