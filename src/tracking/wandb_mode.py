"""Whether W&B is spoken to, offline or not at all: by the keys, the environment, and what answers."""

from __future__ import annotations

import netrc
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from functools import cache

from src.errors import UserError
from src.internet import answers_within

ANSWER = 5.0  # seconds that a server has to answer, at all; W&B itself would try for 90
MODES = {"online": "online", "run": "online", "shared": "online", "offline": "offline", "dryrun": "offline"}
MODES["disabled"] = "disabled"


def resolve_mode(mode: str, environment: Mapping[str, str]) -> str:
    """`wandb.mode` as online, offline or disabled. auto: WANDB_MODE, or else online with an API key."""
    if mode != "auto":
        return mode
    asked = environment.get("WANDB_MODE", "").strip().lower()
    if asked and asked not in MODES:
        raise UserError(f"WANDB_MODE={asked}: choose online, offline or disabled, or unset WANDB_MODE")
    if environment.get("WANDB_DISABLED", "").strip().lower() in ("true", "1", "yes"):
        return "disabled"
    return MODES[asked] if asked else "online" if has_api_key() else "offline"


def server() -> str:
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


@cache
def answers(url: str) -> bool:
    """Whether a server says anything at all within ANSWER seconds; asked once per process, through a proxy if one is
    set."""

    def ask() -> bool:
        try:
            urllib.request.urlopen(url, timeout=ANSWER).close()
        except urllib.error.HTTPError:
            return True
        except urllib.error.URLError as error:  # certificates are W&B's own business
            return "SSL" in type(error.reason).__name__
        except (OSError, ValueError):
            return False
        return True

    return answers_within(ask, ANSWER)


def has_api_key() -> bool:
    """WANDB_API_KEY, a netrc entry, or a Kaggle secret of that name (which is then put into the environment)."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        if netrc.netrc(os.environ.get("NETRC")).authenticators(urllib.parse.urlsplit(server()).hostname or ""):
            return True
    except (OSError, netrc.NetrcParseError):
        pass
    return bool(os.environ.get("KAGGLE_KERNEL_RUN_TYPE")) and _is_kaggle_secret()


@cache
def _is_kaggle_secret() -> bool:
    try:
        from kaggle_secrets import UserSecretsClient  # in Kaggle's images only

        os.environ["WANDB_API_KEY"] = UserSecretsClient().get_secret("WANDB_API_KEY")
    except Exception:  # no such secret, or the internet is off: the run is then tracked offline, and says so
        return False
    return True
