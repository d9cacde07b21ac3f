"""How many shards may be in a model at once, and what a loaded model costs the rest of the process."""

import gc
from typing import Any

from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.tasks.runtime.loaded_models import load_model


def test_two_shards_at_once_are_in_a_local_model_and_not_three() -> None:
    loaded = load_model("florence-2", {"id": str(MODEL_FOLDER), "device": "cpu"})
    slots: Any = loaded.slots
    with slots:
        assert slots.acquire(blocking=False), "one is made ready while the other is on the device"
        try:
            assert not slots.acquire(blocking=False)
        finally:
            slots.release()


def test_a_full_collection_does_not_go_through_what_has_been_loaded() -> None:
    loaded_model = load_model("florence-2", {"id": str(MODEL_FOLDER), "device": "cpu"}).model
    assert gc.is_tracked(loaded_model)
    assert not any(each is loaded_model for each in gc.get_objects())
