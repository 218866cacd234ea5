"""What is asked for on the command line, typed: one request per command, built once and passed on as it is.

A module for each group of commands holds their requests and what builds each from the parsed arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.commands.requests.deploying import ExportRequest, PredictRequest, RetrieveRequest, ServeRequest
    from avalanche_vlm.commands.requests.experiment import Experiment
    from avalanche_vlm.commands.requests.living import DiffRequest, RollbackRequest, UpdateRequest, VersionsRequest
    from avalanche_vlm.commands.requests.parts import (
        Assignment,
        ModelRequest,
        Part,
        Request,
        StreamRequest,
        TrainChanges,
        TrainingRequest,
    )
    from avalanche_vlm.commands.requests.showing import DoctorRequest, ListRequest, ReportRequest
    from avalanche_vlm.commands.requests.training import (
        AdviseRequest,
        CompareRequest,
        DiagnoseRequest,
        Limits,
        RunRequest,
        Saving,
    )
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "AdviseRequest",
    "Assignment",
    "CompareRequest",
    "DiagnoseRequest",
    "DiffRequest",
    "DoctorRequest",
    "Experiment",
    "ExportRequest",
    "Limits",
    "ListRequest",
    "ModelRequest",
    "Part",
    "PredictRequest",
    "ReportRequest",
    "Request",
    "RetrieveRequest",
    "RollbackRequest",
    "RunRequest",
    "Saving",
    "ServeRequest",
    "StreamRequest",
    "TrainChanges",
    "TrainingRequest",
    "UpdateRequest",
    "VersionsRequest",
]
