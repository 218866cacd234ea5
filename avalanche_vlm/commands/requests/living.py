"""What the commands around a model that lives on are asked: ``update``, ``versions``, ``rollback`` and ``diff``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from avalanche_vlm.commands.requests import shared
from avalanche_vlm.commands.requests.parts import ModelRequest, Part, TrainingRequest, within
from avalanche_vlm.errors import InputError


class UpdateRequest(TrainingRequest):
    """``update``: one month more for a saved model.

    :param recipe: name of the recipe to go on with; None for the one of before.
    :param experiences: numbers of the benchmark's experiences that are new; None for the one after those learned.
    :param tests: test samples of each new experience that are kept; None for the default.
    :param limits: limits that were given, by name, in points; ``"none"`` for no limit.
    :param promote: when the new version becomes the model.
    :param as_json: whether what the update came to is printed as JSON.
    """

    recipe: str | None = None
    experiences: tuple[Annotated[int, within("experience")], ...] | None = None
    tests: Annotated[int, within("keep_tests")] | None = None
    limits: dict[str, Annotated[float, within("max_forget")] | Literal["none"]] = Field(default_factory=dict)
    promote: Literal["judged", "unjudged", "always", "never"] = "judged"
    as_json: bool = False

    def recipe_names(self) -> tuple[str, ...]:
        """The one recipe."""
        return () if self.recipe is None else (self.recipe,)


class VersionsRequest(Part):
    """``versions``: the versions of a saved model.

    :param out: the folder that it was saved to.
    :param as_json: whether they are printed as JSON.
    """

    out: Path
    as_json: bool = False


class RollbackRequest(Part):
    """``rollback``: another version becomes the model.

    :param out: the folder that the model was saved to.
    :param version: name of the version.
    :param anyway: whether a candidate that was never promoted is taken as well.
    """

    out: Path
    version: str
    anyway: bool = False


class DiffRequest(Part):
    """``diff``: what sets two versions apart.

    :param out: the folder that the model was saved to.
    :param threads: CPU threads of torch; None for torch's default.
    :param first: name of the version that is compared with.
    :param second: name of the version that is compared.
    :param as_json: whether the difference is printed as JSON.
    :param pictures: folder for the pictures whose answer changed; None for none.
    :param examples: most samples of each set that are listed.
    """

    out: Path
    threads: Annotated[int, within("threads")] | None = None
    first: str
    second: str
    as_json: bool = False
    pictures: Path | None = None
    examples: Annotated[int, within("examples")] = 10


def update_request(options: argparse.Namespace) -> UpdateRequest:
    """The request of ``update``.

    :param options: arguments as argparse has parsed them.
    :raises InputError: unless what is new is named once.
    """
    if options.data is None and options.benchmark is None:
        raise InputError("update learns what is new: name it with --data PATH, or --benchmark NAME and --experience N")
    if options.data is not None and options.experience is not None:
        raise InputError("--experience is one of a --benchmark's; all tasks of --data are learned")
    limits = {name: getattr(options, name) for name in ("max_forget", "max_zero_shot_loss")}
    return UpdateRequest(
        out=options.out,
        quiet=options.quiet,
        threads=options.threads,
        checkpoint_minutes=options.checkpoint_minutes,
        stream=shared.stream(options),
        device=options.device,
        train=shared.changes(options),
        assignments=shared.assignments(options),
        model=ModelRequest(trust_remote_code=options.trust_remote_code),
        recipe=options.recipe,
        experiences=options.experience,
        tests=shared.kept(options, "keep_tests"),
        limits={name: value for name, value in limits.items() if value is not None},
        promote=options.promote,
        as_json=options.json,
    )


def versions_request(options: argparse.Namespace) -> VersionsRequest:
    """The request of ``versions``.

    :param options: arguments as argparse has parsed them.
    """
    return VersionsRequest(out=options.out, as_json=options.json)


def rollback_request(options: argparse.Namespace) -> RollbackRequest:
    """The request of ``rollback``.

    :param options: arguments as argparse has parsed them.
    """
    return RollbackRequest(out=options.out, version=options.version, anyway=options.anyway)


def diff_request(options: argparse.Namespace) -> DiffRequest:
    """The request of ``diff``.

    :param options: arguments as argparse has parsed them.
    """
    return DiffRequest(
        out=options.out,
        threads=options.threads,
        first=options.first,
        second=options.second,
        as_json=options.json,
        pictures=options.pictures,
        examples=options.examples,
    )
