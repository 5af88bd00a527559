"""Tool calls come back exactly through the real server, in every encoding, plain and streamed; wrong ones never as right."""

from benchmarks.fidelity_calls import OWN, measure, read_cases


async def test_every_call_comes_back_exactly_even_from_a_model_that_is_wrong_at_first() -> None:
    cases = read_cases(OWN)
    scores = await measure(cases)
    assert len(scores) == 12
    assert {score.label: score.outcomes["exact"] for score in scores} == {score.label: len(cases) for score in scores}
