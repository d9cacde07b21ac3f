"""What a process may take of its machine, and what media and rows are given of it."""

from pathlib import Path

import psutil
import pytest

from sightflow.schemas.failure import SpecError
from sightflow.schemas.policy import Policy
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.memory.limit import MemoryBudget, check_memory, memory_budget, memory_limit
from sightflow.tasks.route import resolve_enrichments

MACHINE = psutil.virtual_memory().total
MIB = 2**20


def machine(root: Path, groups: str, **limits: int | str) -> Path:
    """A machine of files: what /proc/self/cgroup says, and limits by their path, `__` for a slash."""
    for name, text in {"proc/self/cgroup": groups, **limits}.items():
        file = root / str(name).replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "found"),
    [
        ("", {}, None),
        ("0::/", {"sys__fs__cgroup__memory.max": 512 * MIB}, 512),
        ("0::/", {"sys__fs__cgroup__memory.max": "max"}, None),
        # A group below may be given more than the one above has.
        ("0::/a/b", {"sys__fs__cgroup__a__memory.max": 100 * MIB, "sys__fs__cgroup__a__b__memory.max": 300 * MIB}, 100),
        ("0::/a", {"sys__fs__cgroup__memory.max": 900 * MIB, "sys__fs__cgroup__a__memory.max": 300 * MIB}, 300),
        ("5:cpu,memory:/x\n0::/", {"sys__fs__cgroup__memory__x__memory.limit_in_bytes": 200 * MIB}, 200),
        # A container that is told its host's path sees its own group at the top.
        ("4:memory:/docker/1f", {"sys__fs__cgroup__memory__memory.limit_in_bytes": 256 * MIB}, 256),
        ("0::/../../1f", {"sys__fs__cgroup__memory.max": 128 * MIB}, 128),
        ("4:memory:/", {"sys__fs__cgroup__memory__memory.limit_in_bytes": 9223372036854771712}, None),
        ("4:memory:/\n3:cpu:/", {"sys__fs__cgroup__cpu__memory.limit_in_bytes": MIB}, None),
        ("1:name=systemd:/\nnonsense\n", {"sys__fs__cgroup__memory.max": MIB}, None),
    ],
)
def test_the_least_of_the_limits_that_can_be_seen_counts(
    tmp_path: Path, groups: str, limits: dict[str, int | str], found: int | None
) -> None:
    assert memory_limit(machine(tmp_path, groups, **limits)) == (MACHINE if found is None else found * MIB)


def test_this_process_may_take_something() -> None:
    assert 64 * MIB <= memory_limit() <= MACHINE


def test_half_of_it_is_for_media_and_rows_unless_the_policy_says_otherwise() -> None:
    assert memory_budget(Policy(), limit=1000).total == 500
    assert memory_budget(Policy(), limit=2**40).total == 4 * 2**30
    assert memory_budget(Policy(memory="100MiB"), limit=2**40).total == 100 * MIB
    assert memory_budget(Policy(memory="8GiB"), limit=2**30).total == 2**30, "a smaller worker"
    budget = MemoryBudget(1000)
    assert (budget.fetched, budget.pixels, budget.rows) == (375, 500, 125)


def test_more_than_there_is_is_refused_with_its_line_before_anything_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    text = "source: s3://media/**\ncatalog: s3://bucket/c\nenrichments: [{capability: image captioning}]\n"
    path.write_text(f"{text}policy:\n  memory: 900TB")
    spec = read_spec(path)
    says = rf"spec.yaml:5: policy.memory: 838,190.\d GiB is more than the {memory_limit() / 2**30:,.1f} GiB that this"
    with pytest.raises(SpecError, match=says):
        resolve_enrichments(spec)
    check_memory(EnrichmentSpec.model_validate({**spec.model_dump(), "policy": {"memory": "64MiB"}}))
