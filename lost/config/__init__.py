"""The configuration of a run: its sections, validated as they are read."""

from lost.config.fields import Section
from lost.config.model import ModelConfig, RopeScaling
from lost.config.projection import ProjectionConfig, ProjectionSettings
from lost.config.schedule import ScheduleConfig
from lost.config.schema import (
    DTYPE_BYTES,
    Config,
    DataConfig,
    DType,
    EarlyStop,
    OptimizerConfig,
    TeacherConfig,
    TrainConfig,
)

__all__ = [
    "DTYPE_BYTES",
    "Config",
    "DType",
    "DataConfig",
    "EarlyStop",
    "ModelConfig",
    "OptimizerConfig",
    "ProjectionConfig",
    "ProjectionSettings",
    "RopeScaling",
    "ScheduleConfig",
    "Section",
    "TeacherConfig",
    "TrainConfig",
]
