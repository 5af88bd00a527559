import gc

from starlette.applications import Starlette

from proxy.cli.running import settled


def test_the_programs_own_objects_are_not_collected_again() -> None:
    app, thresholds, frozen = Starlette(), gc.get_threshold(), gc.get_freeze_count()
    try:
        assert settled(lambda: app) is app
        assert gc.get_freeze_count() > frozen + 10_000
        assert not any(found is app for found in gc.get_objects(generation=2))
        assert gc.get_threshold()[0] > 700
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
