"""What `kaggle kernels push` and `kaggle datasets create` read: kernel-metadata.json and dataset-metadata.json."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from src.errors import UserError, nearest


@dataclass(frozen=True)
class Machine:
    """shape: as the official package spells it (`--accelerator`); without one a GPU may be a P100, for which current
    images have no kernels."""

    gpu: bool
    tpu: bool
    shape: str | None


MACHINES = {
    "gpu": Machine(True, False, "NvidiaTeslaT4"),  # Kaggle lends T4s in pairs
    "t4x2": Machine(True, False, "NvidiaTeslaT4"),
    "tpu": Machine(False, True, "TpuV5E8"),
    "cpu": Machine(False, False, None),
}
SHAPE = re.compile(r"(Nvidia|Tpu)\w+")  # NvidiaL4, NvidiaH100, TpuV6E8: where a competition offers them


def machine_of(word: str) -> Machine:
    if word in MACHINES:
        return MACHINES[word]
    if SHAPE.fullmatch(word):
        return Machine(word.startswith("Nvidia"), word.startswith("Tpu"), word)
    names = ", ".join(MACHINES)
    raise UserError(f"machine={word}: choose one of {names}, or Kaggle's own name{nearest(word, MACHINES)}")


@dataclass(frozen=True)
class Sources:
    """What is attached: slugs of competitions, `owner/slug` of data sets and notebooks, models as Kaggle names them."""

    competitions: Sequence[str] = ()
    datasets: Sequence[str] = ()
    notebooks: Sequence[str] = ()
    models: Sequence[str] = ()


def kernel(user: str, slug: str, machine: Machine, internet: bool, sources: Sources, private: bool) -> dict[str, Any]:
    """kernel-metadata.json of the notebook `<slug>.ipynb`; its title resolves to the slug, as Kaggle demands."""
    values = {
        "id": f"{user}/{slug}",
        "title": slug.replace("-", " "),
        "code_file": f"{slug}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": private,
        "enable_gpu": machine.gpu,
        "enable_tpu": machine.tpu,
        "enable_internet": internet,
        "dataset_sources": list(sources.datasets),
        "competition_sources": list(sources.competitions),
        "kernel_sources": list(sources.notebooks),
        "model_sources": list(sources.models),
    }
    return {**values, **({"machine_shape": machine.shape} if machine.shape else {})}


def dataset(user: str, slug: str) -> dict[str, Any]:
    """dataset-metadata.json; a new data set is private unless it is created otherwise."""
    return {"id": f"{user}/{slug}", "title": slug.replace("-", " "), "licenses": [{"name": "other"}]}


def check_slug(key: str, value: str, most: int = 40) -> str:
    """`value` if it can be the beginning of a slug: titles and slugs of Kaggle have 6 to 50 characters."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", value) or len(value) > most:
        raise UserError(f"{key}={value}: small letters, digits and single dashes, at most {most} of them")
    return value
