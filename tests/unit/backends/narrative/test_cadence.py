from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.cadence import ENOUGH, MODELS, Cadence, Expectation, expectation_of


def test_an_unknown_model_may_be_done_early() -> None:
    assert Cadence().expect("new") == Expectation()


def test_a_few_durations_teach_nothing_yet() -> None:
    cadence = Cadence()
    for _ in range(ENOUGH - 1):
        cadence.learn("model", 8.0)
    assert cadence.expect("model") == Expectation()


def test_no_job_is_looked_at_before_it_can_plausibly_be_done() -> None:
    cadence = Cadence()
    for _ in range(ENOUGH):
        cadence.learn("model", 8.0)
    assert 5.0 < cadence.expect("model").earliest < 8.0
    assert cadence.expect("other") == Expectation()


def test_what_is_learned_follows_a_change() -> None:
    cadence = Cadence()
    for _ in range(200):
        cadence.learn("model", 30.0)
    for _ in range(200):
        cadence.learn("model", 1.0)
    assert cadence.expect("model").earliest < 1.0
    assert cadence.expect("model").late < 5.0


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=200))
def test_most_jobs_end_between_earliest_and_late(durations: list[float]) -> None:
    expected = expectation_of(sorted(durations))
    before = sum(seconds < expected.earliest for seconds in durations if seconds > 0.03)
    after = sum(seconds > expected.late for seconds in durations)
    assert before <= len(durations) / 50 + 1
    assert after <= len(durations) / 20


def test_the_table_of_models_is_bounded() -> None:
    cadence = Cadence()
    for number in range(MODELS * 2):
        for _ in range(ENOUGH):
            cadence.learn(f"model {number}", 9.0)
    assert cadence.expect("model 0") == Expectation()
    assert cadence.expect(f"model {MODELS * 2 - 1}") != Expectation()
