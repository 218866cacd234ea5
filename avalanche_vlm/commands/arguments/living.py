"""Arguments of the commands around a model that lives on: ``update``, ``versions``, ``rollback`` and ``diff``."""

from __future__ import annotations

from typing import Any

from avalanche_vlm.commands.arguments import shared, values


def add_living_commands(commands: Any) -> None:
    """The parsers of ``update``, ``versions``, ``rollback`` and ``diff``.

    :param commands: what the program's parser keeps its commands in, which gets them.
    """
    update = commands.add_parser(
        "update",
        help="one month more for a saved model, as a version beside the old one",
        description="Learn what is new on top of DIR/model, with all that it keeps, as a version beside it. The new "
        "version becomes the model unless it lost more than a limit (exit code 3: trained, kept, not promoted).",
    )
    update.add_argument("out", metavar="DIR", help="a folder with a saved model, of run for example")
    shared.add_manners(update)
    shared.add_checkpoints(update)
    update.add_argument("--json", action="store_true", help="what it came to as JSON")
    update.add_argument("--recipe", help="another recipe to go on with (default: as before)")
    values.add_number(update, "experience", several=True)
    shared.add_stream(update, benchmark="as before", seed="as before")
    shared.add_own_data(update)
    shared.add_settings(update, "defaults are those of before, of another --recipe some its own", "as before")
    shared.add_trust(update)
    update.set_defaults(workers=None)
    update.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    gates = update.add_argument_group("promotion")
    values.add_number(gates, "max_forget", metavar="POINTS", type=values.OrNone("max_forget"))
    values.add_number(gates, "max_zero_shot_loss", metavar="POINTS", type=values.OrNone("max_zero_shot_loss"))
    gates.add_argument(
        "--promote",
        choices=("judged", "unjudged", "always", "never"),
        default="judged",
        help="if all limits were judged and kept (the default), though some cannot be judged, whatever the gates say, "
        "or not at all",
    )
    shared.add_kept_tests(update, unset="200, or none where none were kept before")
    versions = commands.add_parser(
        "versions",
        help="the versions of a saved model",
        description="The versions of a saved model, oldest first: when and from what each was made, whether it was "
        "ever promoted, how many experiences it has learned, and its scores in percent. The star marks the model.",
    )
    versions.add_argument("out", metavar="DIR", help="a folder with a saved model")
    versions.add_argument("--json", action="store_true", help="as JSON")
    rollback = commands.add_parser(
        "rollback",
        help="make an earlier version of a saved model the model again",
        description="Make a version the model: DIR/model points to it from one moment to the next.",
    )
    rollback.add_argument("out", metavar="DIR", help="a folder with a saved model")
    rollback.add_argument("version", metavar="VERSION", help="such as v1")
    rollback.add_argument("--anyway", action="store_true", help="take a candidate that was never promoted as well")
    diff = commands.add_parser(
        "diff",
        help="what sets two versions of a saved model apart",
        description="Scores, features, classes, examples, weights and bytes of two versions, on kept test samples.",
    )
    diff.add_argument("out", metavar="DIR", help="a folder with a saved model")
    diff.add_argument("first", metavar="FIRST", help="such as v1")
    diff.add_argument("second", metavar="SECOND", help="such as v2")
    diff.add_argument("--json", action="store_true", help="as JSON")
    diff.add_argument("--pictures", metavar="FOLDER", help="where pictures whose answer changed are written as PNG")
    values.add_number(diff, "examples", default=10)
    values.add_number(diff, "threads")
