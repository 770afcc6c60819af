"""The card or TPU that would compute, and whether this torch can drive it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.diagnosis.finding import Finding, ok, problem, size, warning
from src.training.device import T4, runs_on


@dataclass(frozen=True)
class Card:
    """capability: (major, minor). memory, free: bytes; free is what other processes have left."""

    name: str
    capability: tuple[int, int]
    memory: int
    free: int


@dataclass(frozen=True)
class Torch:
    """built_for: `torch.cuda.get_arch_list()`, empty of a build for the CPU. wrong: why torch cannot be imported."""

    version: str = ""
    cuda: str | None = None
    built_for: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()
    mps: bool = False
    wrong: str = ""


def read_torch() -> Torch:
    """Ask torch. Starts CUDA in this process, but no TPU, which only one process may hold."""
    try:
        with warnings.catch_warnings():  # it says itself that a card is too old, at length
            warnings.simplefilter("ignore")
            import torch

            cards = []
            for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
                about = torch.cuda.get_device_properties(number)
                free, memory = torch.cuda.mem_get_info(number)
                cards.append(Card(about.name, (about.major, about.minor), memory, free))
            built_for = () if torch.version.hip else tuple(torch.cuda.get_arch_list())
            mps = torch.backends.mps.is_available()
            return Torch(torch.__version__, torch.version.cuda, built_for, tuple(cards), mps)
    except Exception as error:  # a library that does not fit, a driver that does not answer
        return Torch(wrong=" ".join(f"{type(error).__name__}: {error}".split())[:200])


def check_card(torch: Torch, listed: int, device: str, on_kaggle: bool, on_tpu: bool) -> Finding:
    """The GPUs. listed: those that nvidia-smi names, whatever torch says. device: the key."""
    if torch.wrong:
        return problem("torch", torch.wrong, "install torch and torchvision again, both of one release")
    wanted = device in ("auto", "cuda")
    if not torch.cards:
        if listed and wanted and torch.cuda is None:
            seen = f"nvidia-smi lists {listed}, but torch {torch.version} is built for the CPU alone"
            return problem("card", seen, "install a torch for CUDA, or say device=cpu")
        if listed and wanted:
            seen = f"nvidia-smi lists {listed}, but torch {torch.version} (CUDA {torch.cuda}) cannot start CUDA"
            cure = "update the driver or take a torch for an older CUDA; CUDA_VISIBLE_DEVICES may hide it"
            return problem("card", seen, cure)
        if device == "cuda":
            return problem("card", "none", "device=cuda needs one; choose one for the notebook, or device=auto")
        if device == "mps" and not torch.mps:
            return problem("card", "device=mps, which this torch has not", "say device=auto")
        if on_kaggle and not on_tpu and device == "auto":
            return warning("card", "none: trained on the CPU", f"{T4}, or a TPU")
        return ok("card", "Apple's (mps)" if torch.mps else "none")
    names = ", ".join(f"{c.name} ({size(c.memory)}, sm_{c.capability[0]}{c.capability[1]})" for c in torch.cards)
    if not wanted:
        return ok("card", f"{names}; not used, device={device}")
    for card in torch.cards:
        own = f"sm_{card.capability[0]}{card.capability[1]}"
        if torch.built_for and not runs_on(card.capability, torch.built_for):
            seen = f"{card.name} is {own}; torch {torch.version} has kernels for {', '.join(torch.built_for)} alone"
            return problem("card", seen, f"{T4}, or say device=cpu")
    for card in torch.cards:
        if card.free < 0.8 * card.memory:
            seen = f"{card.name}: {size(card.memory - card.free)} of {size(card.memory)} are in use by others"
            return warning("card", seen, "restart the notebook's kernel, or whatever else holds it (nvidia-smi)")
    return ok("card", f"{names}; {'bf16' if torch.cards[0].capability >= (8, 0) else 'fp16'}")


def check_tpu(environment: Mapping[str, str], on_tpu: bool, has_xla: bool, device: str) -> Finding:
    """The TPU, by its variables. device: the key."""
    names = ("ISTPUVM", "PJRT_DEVICE", "TPU_PROCESS_ADDRESSES", "XLA_USE_BF16", "XLA_DOWNCAST_BF16")
    shown = ", ".join(f"{name}={environment[name]}" for name in names if name in environment) or "none"
    if device == "tpu" and not on_tpu:
        return problem("tpu", "none", "device=tpu needs one; choose TPU for the notebook, or device=auto")
    if not on_tpu or device not in ("auto", "tpu"):
        return ok("tpu", shown)
    if not has_xla:
        cure = "install the torch_xla of torch's own version, or say device=cpu"
        return problem("tpu", f"{shown}, but there is no torch_xla", cure)
    for name in ("XLA_USE_BF16", "XLA_DOWNCAST_BF16"):
        if environment.get(name, "0") not in ("", "0"):
            seen = f"{name}={environment[name]} makes all float32 bf16: averages of weights would stand still"
            return problem("tpu", seen, f"unset {name}; precision=bf16 does without")
    return ok("tpu", shown)


def check_launch(environment: Mapping[str, str]) -> Finding:
    """Variables that an earlier launcher may have left: every start would wait for processes that never come."""
    left = [name for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK") if name in environment]
    if environment.get("WORLD_SIZE", "1") not in ("", "1") and "TORCHELASTIC_RUN_ID" not in environment:
        seen = ", ".join(f"{name}={environment[name]}" for name in left)
        cure = f"unset {' '.join(left)}; this command starts its own processes"
        return problem("processes", f"{seen}: a start would wait for the others", cure)
    return ok("processes", "started by this command")


def check_cores(cores: int, processes: int, workers: int, wanted: int | str) -> Finding:
    """workers: loader processes per training process that the key `workers` (wanted) comes to."""
    seen = f"{cores} for {processes} x (1 training + {workers} loading)"
    if wanted != "auto" and processes * (workers + 1) > 2 * cores:
        return warning("cores", seen, "leave workers=auto")
    return ok("cores", seen)


def total(cards: Sequence[Card], listed: int, device: str, on_tpu: bool) -> int:
    """Training processes that processes=auto means."""
    if on_tpu and device in ("auto", "tpu"):
        return 8
    return max(1, len(cards) or listed) if device in ("auto", "cuda") else 1
