"""Every key with its default (schema.py), what its value may be (limits.py), and how mappings become one (read.py)."""

from src.config.read import RUNTIME_KEYS, build, defaults, difference, keys, migrate, plain, refuse_secrets, unknown_key
from src.config.schema import (
    AugmentConfig,
    CompetitionConfig,
    Config,
    DistillConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    PathsConfig,
    PruneConfig,
    SoupConfig,
    StackConfig,
    StageConfig,
)

__all__ = [
    "RUNTIME_KEYS",
    "AugmentConfig",
    "CompetitionConfig",
    "Config",
    "DistillConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PathsConfig",
    "PruneConfig",
    "SoupConfig",
    "StackConfig",
    "StageConfig",
    "build",
    "defaults",
    "difference",
    "keys",
    "migrate",
    "plain",
    "refuse_secrets",
    "unknown_key",
]
