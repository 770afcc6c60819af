"""What the machine offers: the Accelerator with the right precision for its device."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.errors import UserError
from src.log import speak
from src.training.memory import keep_freed_memory

if TYPE_CHECKING:  # loading torch takes a second, and some recipes may only ask how many workers there should be
    import torch
    from torch import nn


T4 = "on Kaggle choose the accelerator GPU T4 x2 (pushed by the API: the machine shape NvidiaTeslaT4)"

# How long processes wait for each other in a collective call. The first one may decode all images or search for
# duplicates meanwhile; who starts the processes ends them all when one fails, so that nobody waits for the dead.
PATIENCE = timedelta(days=2)


def make_accelerator(device: str = "auto", precision: str = "auto", accumulate: int = 1, freezing: bool = False) -> Any:
    """An `accelerate.Accelerator` for this process; `RANK`/`WORLD_SIZE` in the environment make it one of several.

    device: auto, cpu, cuda, mps, tpu. precision: auto, fp32, fp16, bf16. freezing: whether some steps train only a part
    of the network, which several processes have to know, because they wait for every gradient.
    Raises UserError if the device is not there.
    """
    import torch

    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "tpu": on_tpu(),
    }
    if device != "auto" and not available[device]:
        raise UserError(
            f"device={device}: not on this machine, which has {', '.join(d for d, ok in available.items() if ok)}"
        )
    if device == "auto":
        device = next(name for name in ("tpu", "cuda", "mps", "cpu") if available[name])
    if precision == "auto":
        precision = natural_precision(device)
    if device == "tpu" and precision == "fp16":
        raise UserError("precision=fp16: a TPU has bf16 and fp32; use precision=auto")
    if device == "cpu":
        keep_freed_memory()
    if device == "tpu":
        give_held_norms_a_backward()
    if device == "cuda":
        refuse_old_cards()
        # a stage's shapes are all alike, so trying cuDNN's algorithms out pays
        torch.backends.cudnn.benchmark = True

    launched = "WORLD_SIZE" in os.environ  # as one of several processes
    if not launched:  # Accelerate takes the tasks of `srun -n 2` for processes that train together
        for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
            os.environ.pop(name, None)

    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    # the jobs of a multirun share this process, and Accelerate keeps the first one's precision for ever
    AcceleratorState._reset_state(reset_partial_state=not launched)
    ddp = DistributedDataParallelKwargs(
        find_unused_parameters=freezing,
        gradient_as_bucket_view=True,  # saves a copy of all gradients
        broadcast_buffers=False,  # before every forward pass; `average_buffers` makes them alike where it counts
    )
    accelerator = Accelerator(
        cpu=device == "cpu",
        # "bf16" on a TPU would turn every float32 into bf16 (XLA_USE_BF16): averages of weights that stand still, sums
        # of losses that stop at 256
        mixed_precision="no" if precision == "fp32" or device == "tpu" else precision,
        gradient_accumulation_steps=accumulate,
        kwargs_handlers=[ddp, InitProcessGroupKwargs(timeout=PATIENCE)] if launched else None,
    )
    if device == "tpu" and precision == "bf16":  # autocast alone, as on a GPU
        accelerator.state._mixed_precision, accelerator.native_amp = "bf16", True
    if device == "cpu" and precision == "fp16":
        # Accelerate trains fp32 without a word here, although torch has both autocast and a loss scaler for fp16 on
        # CPU. They make the T4's path testable, so they are switched on.
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu")
    speak(accelerator.is_main_process)
    return accelerator


def give_held_norms_a_backward() -> None:
    """Normalise by running statistics in plain arithmetic on XLA devices, whose backward pass of it ends the process
    (torch_xla 2.8: "size of offset factor is 0"): fine-tuning with held statistics and Grad-CAM need one."""
    import torch.nn.functional as F

    plain = F.batch_norm
    if hasattr(plain, "of_xla"):
        return

    def batch_norm(
        input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
        momentum: float = 0.1, eps: float = 1e-5,
    ) -> Any:  # fmt: skip
        if training or running_mean is None or input.device.type != "xla":
            return plain(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return held_norm(input, running_mean, running_var, weight, bias, eps)

    batch_norm.of_xla = True  # type: ignore[attr-defined]
    F.batch_norm = batch_norm


def held_norm(x: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float) -> Any:
    """torch's `batch_norm` in evaluation mode of x (N, C, …), by two operations that every device can differentiate."""
    scale = (var + eps).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * scale
    shape = (1, -1, *[1] * (x.ndim - 2))
    return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)


def runs_on(capability: tuple[int, int], built_for: Collection[str]) -> bool:
    """Whether kernels built for these architectures run on a card: binaries (sm_75) on cards of their major number and
    at least their minor one, intermediate code (compute_90) on all later cards too."""
    for architecture in built_for:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
        if match is None:
            continue
        own = (int(match[2]), int(match[3]))
        if match[4] == "a":  # of exactly this card
            fits = own == capability
        elif match[1] == "sm" or match[4]:
            fits = own[0] == capability[0] and own[1] <= capability[1]
        else:
            fits = own <= capability
        if fits:
            return True
    return False


def refuse_old_cards() -> None:
    """UserError for a GPU that this torch has no kernels for: the first of them would end in CUDA's own words."""
    import torch

    built_for = () if torch.version.hip else torch.cuda.get_arch_list()
    for number in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(number)
        if built_for and not runs_on(capability, built_for):
            raise UserError(
                f"device=cuda: {torch.cuda.get_device_name(number)} is sm_{capability[0]}{capability[1]}, and torch "
                f"{torch.__version__} has kernels for {', '.join(built_for)} alone; {T4}, or say device=cpu"
            )


def precision_of(accelerator: Any) -> str:
    """fp32, fp16 or bf16."""
    return {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)


def from_main(accelerator: Any, value: Any) -> Any:
    """What the first process says, so that all of them decide alike about files and clocks that only one may read."""
    if accelerator.num_processes > 1 and accelerator.device.type == "xla":
        import torch_xla.core.xla_model as xm

        # Accelerate's way reads it by torch.load, which takes few kinds of objects
        return pickle.loads(xm.rendezvous("from main", pickle.dumps(value))[0])
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0] if accelerator.num_processes > 1 else value


def end_step(device: torch.device) -> None:
    """Have the device carry out what was recorded, in all processes at the same point. XLA would else wait for the
    first who reads a value: the first process with its checkpoint, at a program that no other process runs, and the
    collective calls in it would wait for ever."""
    if device.type == "xla":
        import torch_xla

        torch_xla.sync()


def prepare_tpu(cache: Path) -> None:
    """What a TPU wants of the environment before torch_xla is loaded; nothing without one.

    cache: folder in which compiled programs are kept for later starts, which minutes of a session go into otherwise.
    """
    if on_tpu():
        os.environ.pop("TPU_PROCESS_ADDRESSES", None)  # Kaggle's "local" is not what eight processes are to find
        os.environ.setdefault("XLA_PERSISTENT_CACHE_PATH", str((cache / "xla").absolute()))


def notebook_began() -> float | None:
    """When (time.time()) the machine of this Kaggle notebook started, or None anywhere else."""
    if not os.environ.get("KAGGLE_KERNEL_RUN_TYPE"):
        return None
    import psutil

    return psutil.Process(1).create_time()  # the first process of the notebook's container


def natural_precision(device: str) -> str:
    """bf16 where the hardware has it, fp16 with loss scaling on older GPUs (T4, P100), else fp32.

    A CPU without AMX emulates bf16: measured 14 times slower than fp32.
    """
    if device == "tpu":
        return "bf16"
    if device == "cuda":
        import torch

        # is_bf16_supported() also counts emulation, so ask for the architecture: Ampere (8.0) is the first with bf16
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    if device == "cpu":
        cpuinfo = Path("/proc/cpuinfo")
        return "bf16" if cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text() else "fp32"
    return "fp32"


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed every generator that torch draws from on this device; XLA keeps one of its own."""
    import torch

    torch.manual_seed(seed)
    if device.type == "xla":
        import torch_xla.core.xla_model as xm

        xm.set_rng_state(seed % 2**31, device)


def sync_batchnorm(model: nn.Module, accelerator: Any) -> nn.Module:
    """`model` with BatchNorm statistics over the batches of all processes, the same parameters and names; itself if
    there is one process. Raises UserError off the GPU: torch has no kernels for it on a CPU, and refuses to run."""
    if accelerator.num_processes == 1:
        return model
    if accelerator.device.type != "cuda":
        raise UserError(f"model.sync_bn=true: works between GPUs, not on {accelerator.device.type}; use sync_bn=false")
    from timm.layers import convert_sync_batchnorm  # torch's own loses the activation in timm's BatchNormAct2d

    return convert_sync_batchnorm(model)


def on_tpu() -> bool:
    """Whether torch_xla would drive a TPU (or, for tests, an XLA device on the CPU); does not load it."""
    return os.environ.get("PJRT_DEVICE", "").upper() in ("TPU", "CPU") or os.environ.get("ISTPUVM") == "1"


def gpus() -> list[str]:
    """NVIDIA GPUs as CUDA_VISIBLE_DEVICES names them, without it by nvidia-smi: asking torch would initialise CUDA
    here, after which no process can be forked."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


def count_gpus() -> int:
    return len(gpus())


def cores_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loader_workers(wanted: int | str, processes: int | None = None, device: str = "cpu") -> int:
    """`auto`: the cores that this process may use, less one for the training loop itself, at most 8.

    processes: that train on this machine, None: as many as the environment says. device: the type of torch's. On one
    or two cores of a CPU the loop makes its batches itself: at 9,000 cached 64 px images/s a worker has nothing to win.
    On a GPU or TPU the loop waits for the device in every step, and at least one makes the next batch meanwhile; a
    TPU's eight loops have at most two each, which is more than their cores eat.
    """
    if wanted != "auto":
        if not str(wanted).isdigit():
            raise UserError(f"workers={wanted}: give a number from 0, or auto")
        return int(wanted)
    cores = cores_here() // (processes or int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if device == "cpu":
        return 0 if cores <= 2 else min(8, cores - 1)
    return max(1, min(2 if device == "xla" else 8, cores - 1))


def workers_beside(wanted: int | str, accelerator: Any) -> int:
    """`loader_workers` for one of the processes that train on this machine: as many as the environment says, which
    neither counts those of other machines nor forgets those of other folds; else those of `accelerator`."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
    return loader_workers(wanted, here, accelerator.device.type)
