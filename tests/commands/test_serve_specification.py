"""``serve`` is asked what its own specification allows, and what it forbids, and must answer as it says there."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved import pictures_in, saved_tiny

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
pytest.importorskip("schemathesis")
import schemathesis
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from avalanche_vlm.commands.requests import ServeRequest
from avalanche_vlm.commands.serving.application import application
from avalanche_vlm.commands.serving.holding import Serving

pytestmark = pytest.mark.slow

WHAT_IS_TAKEN = ("POST /predict", "GET /search")
BEYOND = [positive_data_acceptance]
"""No specification says which bytes are an image, and how many tokens a text has."""


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    """What can be asked, by name."""
    folder = tmp_path_factory.mktemp("specified")
    pictures = pictures_in(folder / "searched", good=3, bad=0)
    request = ServeRequest(model=saved_tiny(folder / "m"), images=(str(folder / "searched"),), quiet=True)
    sent = st.sampled_from([path.read_bytes() for path in pictures]) | st.binary(max_size=40)
    for kind in ("image/*", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, sent)
    specification = schemathesis.openapi.from_asgi("/openapi.json", application(Serving(request), every=3600))
    return {operation.label: operation for operation in (of.ok() for of in specification.get_all_operations())}


def asked(operation, mode: GenerationMode) -> Counter[int]:
    """How often an operation gave which status."""
    given_back: Counter[int] = Counter()

    @settings(max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        given_back[case.call_and_validate(excluded_checks=BEYOND).status_code] += 1

    check()
    return given_back


def test_all_that_can_be_asked_is_specified(operations):
    assert set(operations) == {*WHAT_IS_TAKEN, "GET /health", "GET /versions"}


@pytest.mark.parametrize("name", [*WHAT_IS_TAKEN, "GET /health", "GET /versions"])
def test_what_is_allowed_is_answered_as_specified(operations, name):
    found = asked(operations[name], GenerationMode.POSITIVE)
    assert found[200] > 0 and set(found) <= {200, 400, 422}, found


@pytest.mark.parametrize("name", WHAT_IS_TAKEN)
def test_what_is_forbidden_is_refused_as_specified(operations, name):
    found = asked(operations[name], GenerationMode.NEGATIVE)
    # What nobody asks for, such as a parameter that there is not, is passed over.
    assert sum(times for status, times in found.items() if 400 <= status < 500) > 10, found
    assert set(found) <= {200, 400, 415, 422}, found
