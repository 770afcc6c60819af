"""The Hugging Face hub: what it has of a model, what of that is on this disk already, and whether it can be asked."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from src.internet import answers_within

TRUE = ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads its switches
OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def is_hub_name(name: str) -> bool:
    """`hf-hub:owner/model`: a network that only its config.json on the hub describes."""
    return name.startswith(("hf-hub:", "hf_hub:"))


def has_weights(name: str) -> bool:
    """Whether there are pretrained weights of the model `name` anywhere on the hub."""
    import timm

    return is_hub_name(name) or timm.is_model_pretrained(name)


def cached_file(name: str) -> Path | None:
    """The weights of `name` in the hub's cache on this disk, or in torch's from before there was a hub."""
    import timm
    import torch
    from huggingface_hub import constants, try_to_load_from_cache

    repository, url, files = name.partition(":")[2], "", ["model.safetensors", "pytorch_model.bin"]
    if not is_hub_name(name):
        config = timm.get_pretrained_cfg(name)
        if config is None or config.custom_load:  # a format of its own, which timm downloads and reads by itself
            return None
        repository, url = str(config.hf_hub_id or ""), str(config.url or "")
        files = [str(config.hf_hub_filename)] if config.hf_hub_filename else files
    repository, _, revision = repository.partition("@")
    for file in files:
        found = repository and try_to_load_from_cache(
            repository, file, cache_dir=constants.HF_HUB_CACHE, revision=revision or None
        )
        if isinstance(found, str):
            return Path(found)
    old = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    return old if url and old.is_file() else None


def why_not(seconds: float) -> str | None:
    """Why the hub cannot be asked, for the log; None if it answers within `seconds`.

    It is asked by the client that would download, which knows HF_ENDPOINT's certificates and the proxies.
    """
    switch = next((name for name in OFFLINE_SWITCHES if os.environ.get(name, "").upper() in TRUE), None)
    if switch is not None:
        return f"{switch}={os.environ[switch]} forbids asking the hub"
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if answers(endpoint, seconds):
        return None
    return f"the hub does not answer ({urlsplit(endpoint).hostname})"


def answers(url: str, seconds: float) -> bool:
    """Whether anything but a failing proxy answers there."""
    from huggingface_hub.utils import get_session

    def ask() -> bool:
        try:
            return int(get_session().head(url, timeout=seconds).status_code) < 500
        except Exception:  # of whichever library the client is built on
            return False

    return answers_within(ask, seconds)
