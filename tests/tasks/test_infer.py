"""How many shards may be in a model at once."""

from typing import Any

from infra.demo.bucket import MODEL_FOLDER
from tasks.infer import loaded


def test_two_shards_at_once_are_in_a_local_model_and_not_three() -> None:
    serving = loaded("florence-2", {"id": str(MODEL_FOLDER), "device": "cpu"})
    turn: Any = serving.turn
    with turn:
        assert turn.acquire(blocking=False), "one is made ready while the other is on the device"
        try:
            assert not turn.acquire(blocking=False)
        finally:
            turn.release()
