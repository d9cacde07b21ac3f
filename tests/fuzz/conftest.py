"""The time that `make fuzz` gives is shared by the tests of this folder."""

import pytest

from tests.fuzz.mutation import share_of_seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What Pillow and FFmpeg say of files that are broken on purpose."""
    for item in items:
        if "fuzz" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    here = [item for item in request.session.items if "fuzz" in item.path.parts]
    return share_of_seconds(len(here))
