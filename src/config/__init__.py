"""Every key with its default (schema.py), what its value may be (limits.py), and how mappings become one (read.py)."""

from src.config.read import RUNTIME_KEYS, build, defaults, difference, keys, plain, refuse_secrets, unknown_key
from src.config.schema import (
    AugmentConfig,
    AverageConfig,
    CompetitionConfig,
    Config,
    DistillConfig,
    LossConfig,
    MixConfig,
    ModelConfig,
    OptimizerConfig,
    PathsConfig,
    PruneConfig,
    ScheduleConfig,
    StageConfig,
)

__all__ = [
    "RUNTIME_KEYS",
    "AugmentConfig",
    "AverageConfig",
    "CompetitionConfig",
    "Config",
    "DistillConfig",
    "LossConfig",
    "MixConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PathsConfig",
    "PruneConfig",
    "ScheduleConfig",
    "StageConfig",
    "build",
    "defaults",
    "difference",
    "keys",
    "plain",
    "refuse_secrets",
    "unknown_key",
]
