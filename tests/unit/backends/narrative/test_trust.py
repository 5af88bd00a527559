from proxy.backends.narrative.trust import Trust


def judged(trust: Trust, hits: int, misses: int) -> None:
    for number in range(hits):
        trust.kept(float(number))
    for number in range(misses):
        trust.owe(f"missing {number}", 0.0)
    trust.settle(1_000.0)


def test_a_source_that_leaves_out_ends_is_demoted_and_earns_its_place_again() -> None:
    changes: list[bool] = []
    trust = Trust(1.0, patience=3, spacing=1, on_change=changes.append)
    judged(trust, hits=0, misses=1)
    assert trust.reliable, "one may happen"
    judged(trust, hits=0, misses=2)
    assert not trust.reliable
    judged(trust, hits=30, misses=0)
    assert trust.reliable
    assert changes == [False, True]


def test_a_new_source_has_to_prove_itself() -> None:
    trust = Trust(0.8, patience=3, spacing=0.1)
    assert not trust.reliable
    judged(trust, hits=10, misses=0)
    assert trust.reliable


def test_many_first_words_at_once_do_not_drown_the_misses() -> None:
    trust = Trust(1.0, patience=3, spacing=1)
    for _ in range(1_000):
        trust.kept(5.0)
    judged(trust, hits=0, misses=3)
    assert not trust.reliable


def test_late_words_count_as_kept_while_patience_lasts() -> None:
    trust = Trust(0.89, patience=3, spacing=1)
    trust.owe("job", 10.0)
    trust.settle(12.9)
    trust.showed("job")
    trust.settle(20.0)
    assert trust.reliable


def test_forgiven_debts_are_no_misses() -> None:
    trust = Trust(1.0, patience=3, spacing=1)
    for number in range(10):
        trust.owe(f"job {number}", 0.0)
    trust.forgive()
    trust.settle(100.0)
    assert trust.reliable


def test_debts_are_bounded() -> None:
    trust = Trust(1.0, patience=3, spacing=1)
    for number in range(100_000):
        trust.owe(f"job {number}", 0.0)
    assert len(trust._owed) <= 1_000
