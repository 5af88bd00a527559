from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.schedule import Schedule, next_look


def test_the_first_look_comes_early_and_pauses_grow_by_the_factor_up_to_the_most() -> None:
    schedule = Schedule(first=0.1, factor=1.5, most=2.0)
    assert next_look(0.0, schedule) == 0.1
    assert next_look(1.0, schedule) == 0.5
    assert next_look(100.0, schedule) == 2.0


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_pauses_stay_within_bounds_and_never_shrink_with_age(age: float, more: float) -> None:
    schedule = Schedule()
    assert schedule.first <= next_look(age, schedule) <= next_look(age + more, schedule) <= schedule.most
