"""What is asked about a model that lives on, typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from avalanche_vlm.commands.requests import NotNegative, Part, Rate, TrainingRequest


class UpdateRequest(TrainingRequest):
    """``update``: one month more for a saved model.

    :param recipe: name of the recipe to go on with; None for the one of before.
    :param experiences: numbers of the benchmark's experiences that are new; None for the one after those learned.
    :param tests: test samples of each new experience that are kept; None for the default.
    :param limits: limits that were given, by name, in points; ``"none"`` for no limit.
    :param promote: when the new version becomes the model.
    :param held_out: path of a table that nothing trains, which is measured besides.
    :param as_json: whether what the update came to is printed as JSON.
    """

    recipe: str | None = None
    experiences: tuple[NotNegative, ...] | None = None
    tests: NotNegative | None = None
    limits: dict[str, Rate | Literal["none"]] = Field(default_factory=dict)
    promote: Literal["judged", "unjudged", "always", "never"] = "judged"
    held_out: str | None = None
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
    threads: Annotated[int, Field(ge=1)] | None = None
    first: str
    second: str
    as_json: bool = False
    pictures: Path | None = None
    examples: NotNegative = 10
