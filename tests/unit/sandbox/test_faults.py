"""Which calls a fault happens to (docs/sandbox.md, Faults)."""

from typing import Any

import pytest
from pydantic import ValidationError

from proxy.sandbox.faults import Fault, Faults


def hits(faults: Faults, calls: int, operation: Any = "run", job_id: str | None = None) -> list[int]:
    """The numbers of the calls that went wrong, from 1."""
    return [number for number in range(1, calls + 1) if faults.pick(operation, job_id)]


def in_force(**when: Any) -> Faults:
    faults = Faults(seed=7)
    faults.add(Fault(kind="close", **when))
    return faults


@pytest.mark.parametrize(
    ("when", "wrong"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"times": 2}, [1, 2]),
        ({"every": 3}, [3, 6]),
        ({"every": 2, "times": 2}, [2, 4]),
        ({"after": 4}, [5, 6]),
        ({"after": 1, "every": 2}, [3, 5]),
        ({"probability": 0}, []),
        ({"probability": 1, "times": 1}, [1]),
    ],
)
def test_a_fault_happens_as_often_as_it_says(when: dict[str, Any], wrong: list[int]) -> None:
    assert hits(in_force(**when), 6) == wrong


def test_chance_repeats_with_the_seed() -> None:
    first, second = hits(in_force(probability=0.3), 200), hits(in_force(probability=0.3), 200)
    assert first == second
    assert 30 < len(first) < 90


def test_a_fault_ends_with_its_time() -> None:
    now = 0.0
    faults = Faults(clock=lambda: now)
    faults.add(Fault(kind="status", status=429, for_s=5))
    assert hits(faults, 2) == [1, 2]
    now = 5.0
    assert hits(faults, 2) == []
    assert not faults.active()


def test_a_fault_selects_by_operation_and_job() -> None:
    faults = Faults()
    faults.add(Fault(kind="status", status=404, operation="get_job", job_id="a"))
    assert hits(faults, 1, "get_job", "a") == [1]
    assert hits(faults, 1, "get_job", "b") == []
    assert hits(faults, 1, "list_jobs") == []


def test_faults_of_calls_spare_deliveries_and_the_other_way_round() -> None:
    faults = Faults()
    faults.add(Fault(kind="close"))
    assert hits(faults, 1, "deliveries") == []
    faults.clear()
    faults.add(Fault(kind="twice"))
    assert hits(faults, 1, "deliveries") == [1]
    assert hits(faults, 1, "run") == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "explode"},
        {"kind": "twice", "operation": "run"},
        {"kind": "patch"},
        {"kind": "patch", "body": []},
        {"kind": "close", "operation": "deliveries"},
        {"kind": "close", "often": 1},
        {"kind": "status", "status": 200},
        {"kind": "close", "every": 0},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate(wrong)


def test_the_first_fault_that_happens_is_the_only_one() -> None:
    faults = Faults()
    faults.add(Fault(kind="reset", times=1), Fault(kind="status"))
    assert [fault.kind for _ in range(3) if (fault := faults.pick("run"))] == ["reset", "status", "status"]
    assert faults.fired == {"reset": 1, "status": 2}


def test_what_may_still_happen_can_be_seen_and_ended() -> None:
    faults = in_force(times=1)
    assert len(faults.active()) == 1
    faults.pick("run")
    assert faults.active() == []
    faults.add(Fault(kind="slow"))
    cleared = faults.cleared
    faults.clear()
    assert (cleared.done(), faults.cleared.done(), bool(faults.active())) == (True, False, False)


def test_there_is_a_bound() -> None:
    with pytest.raises(ValueError, match="at most"):
        Faults().add(*[Fault(kind="close")] * 1_001)
