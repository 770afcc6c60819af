"""What this machine is, what of it would be used, and what would go wrong; changes nothing, computes nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from src import bootstrap
from src.config import Config
from src.diagnosis import device, host, places
from src.diagnosis.finding import Finding, problem
from src.errors import UserError
from src.training.device import cores_here, count_gpus, loader_workers, notebook_began, on_tpu
from src.training.memory import free_memory, memory_limit
from src.training.schedule import seconds

if TYPE_CHECKING:
    from src.model.weights import WeightsSource

WAIT = 2.0  # seconds for an answer of the internet
ASKED = ("https://pypi.org", "https://huggingface.co")  # any of them will do
SHOWN = ("torch", "torchvision", "timm", "accelerate", "numpy", "albumentations", "opencv-python-headless", "wandb")
PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def doctor(config: Config, wrong: Sequence[str]) -> int:
    """Print a line per check; 2 if anything would go wrong, else 0.

    config: of the words that were typed, or what could be read of them; wrong: why it is not the whole.
    """
    findings = [problem("words", text, "") for text in wrong]
    findings += examine(config)
    for finding in findings:
        print(finding.line(), flush=True)
    problems, warnings = (sum(each.level == level for each in findings) for level in ("problem", "warning"))
    print(f"{problems} to mend, {warnings} to know of" if problems or warnings else "nothing would go wrong")
    return 2 if problems else 0


def examine(config: Config) -> list[Finding]:
    """Every check, with what this machine answers."""
    from src.model import hub
    from src.tracking import is_installed
    from src.tracking.wandb_mode import has_api_key

    environment, inputs = dict(os.environ), Path(config.paths.input)
    kaggle, tpu = bool(environment.get("KAGGLE_KERNEL_RUN_TYPE")), on_tpu()
    lines = bootstrap.requirements(PYPROJECT)
    versions = bootstrap.installed([bootstrap.parse(line)[0] for line in lines])
    absent = bootstrap.missing(lines, versions, bootstrap.KEPT if kaggle else ())
    folders = bootstrap.wheel_folders(inputs)
    lacking = [line for line in absent if bootstrap.parse(line)[0] not in bootstrap.wheel_names(folders)]

    # ---- what computes ----------------------------------------------------------------------------------------------
    torch, listed = device.read_torch(), count_gpus()
    wanted = str(config.processes)
    processes = int(wanted) if wanted.isdigit() else device.total(torch.cards, listed, config.device, tpu)
    found = [
        device.check_card(torch, listed, config.device, kaggle, tpu),
        device.check_tpu(environment, tpu, is_installed("torch_xla"), config.device),
        device.check_launch(environment),
    ]

    # ---- the machine ------------------------------------------------------------------------------------------------
    kind = "xla" if tpu and config.device in ("auto", "tpu") else "cuda" if torch.cards else "cpu"
    settled = config.workers if str(config.workers).isdigit() else "auto"
    workers = loader_workers(settled, processes, "cpu" if config.device == "cpu" else kind)
    batch = config.batch_size if isinstance(config.batch_size, int) else 64
    side, task = max(config.size, 1), config.competition
    bytes_per_pixel = task.channels * (2 if task.samples == "uint16" else 1)
    shared = Path("/dev/shm")
    needed = host.bytes_on_their_way(batch, side, bytes_per_pixel, 1, workers, processes)
    paths = {f"paths.{name}": getattr(config.paths, name) for name in ("cache", "runs", "submissions")}
    free, limit = free_memory(), min(memory_limit() or sys.maxsize, psutil.virtual_memory().total)
    found += [
        *refused(lambda: loader_workers(config.workers)),
        host.check_memory(free, limit, processes, workers),
        host.check_shared_memory(psutil.disk_usage(str(shared)).free if shared.is_dir() else None, needed, workers),
        device.check_cores(cores_here(), processes, workers, config.workers),
        *host.check_disks({key: host.read_disk(Path(path)) for key, path in paths.items()}, config.cache),
    ]
    began, text = notebook_began(), config.session.tpu_limit if tpu else config.session.limit
    complaints = refused(lambda: seconds(text, "session.limit"))
    left = None if began is None or complaints else began + seconds(text) - time.time()
    found += complaints or [host.check_session(left, text)]

    # ---- what is attached and what can be reached -------------------------------------------------------------------
    mounts = places.attached(inputs)
    with ThreadPoolExecutor(len(ASKED)) as pool:
        reached = any(pool.map(lambda url: hub.answers(url, WAIT), ASKED))
    shown = {name: versions[name] for name in SHOWN if name in versions}
    found += [
        places.check_internet(reached, config.wandb.mode),
        places.check_mounts(inputs, mounts, kaggle),
        places.check_competition(task, mounts),
        places.check_weights(source_of(config, WAIT if reached else 0.2), config.model.pretrained),
        host.check_versions(absent, shown, sys.version_info[:2], not reached),
        places.check_wheels(folders, absent, lacking, reached),
    ]
    with_key = config.wandb.mode != "disabled" and (reached or not kaggle) and has_api_key()
    return [*found, places.check_secrets(with_key, config.wandb.mode, kaggle, reached), host.check_backend(environment)]


def refused(ask: Callable[[], object]) -> list[Finding]:
    """What is wrong with the keys that `ask` reads, if anything."""
    try:
        ask()
    except UserError as error:
        return [problem("words", str(error), "")]
    return []


def source_of(config: Config, wait: float) -> WeightsSource | str:
    """What a fold would start from, or the complaint."""
    model = config.model
    try:
        from src.model.weights import check_model_name, find_weights

        check_model_name(model.name)
        return find_weights(model.name, model.pretrained, model.weights, Path(config.paths.input), wait)
    except UserError as error:
        return str(error)
    except Exception as error:  # a package that is missing or broken
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
