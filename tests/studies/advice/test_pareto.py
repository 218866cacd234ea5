from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from avalanche_vlm.studies.advice.pareto import front

POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)


@given(POINTS)
def test_the_front_is_what_no_other_point_dominates(points):
    named = {str(i): point for i, point in enumerate(points)}
    expected = []
    for name, point in named.items():
        beaten = False
        for other in points:
            no_worse = sum(o >= p for o, p in zip(other, point, strict=True)) == len(point)
            beaten |= no_worse and other != point
        if not beaten:
            expected.append(name)
    assert front(named) == expected


@given(POINTS)
def test_every_point_is_on_the_front_or_dominated_by_one_that_is(points):
    named = {str(i): point for i, point in enumerate(points)}
    best = [named[name] for name in front(named)]
    assert best
    for point in points:
        assert any(all(b >= p for b, p in zip(one, point, strict=True)) for one in best)
