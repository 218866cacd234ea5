"""Who the student is compared with: the initial model, the previous one, averages of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.training.teachers.base import TeacherPolicy
    from avalanche_vlm.training.teachers.constant import InitialTeacher, PreviousTeacher
    from avalanche_vlm.training.teachers.frozen import Teacher
    from avalanche_vlm.training.teachers.moving import MomentumTeacher, MovingAverageTeacher
    from avalanche_vlm.training.teachers.store import FeatureStore
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "FeatureStore",
    "InitialTeacher",
    "MomentumTeacher",
    "MovingAverageTeacher",
    "PreviousTeacher",
    "Teacher",
    "TeacherPolicy",
]
