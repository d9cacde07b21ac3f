"""What every block owes those who meet it in Prefect's UI."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.blocks.core import Block

from sightflow import blocks
from sightflow.blocks.collection import TYPES
from sightflow.blocks.models.systems import SYSTEMS

ROOT = Path(__file__).parents[2]
EACH = pytest.mark.parametrize("block", TYPES, ids=lambda block: block.__name__)


def test_every_system_is_a_block() -> None:
    assert len(TYPES) == len(SYSTEMS) + 2
    assert all(Block.is_block_class(block) for block in TYPES)
    assert len({block.get_block_type_slug() for block in TYPES}) == len(TYPES)


@EACH
def test_its_name_says_whose_it_is(block: type[Block]) -> None:
    assert str(block._block_type_name).startswith("Sightflow ")
    assert block.get_block_type_slug().startswith("sightflow-")


@EACH
def test_its_logo_and_its_page_are_in_the_repository(block: type[Block]) -> None:
    for url in (block._logo_url, block._documentation_url):
        inside = str(url).partition("/main/")[2].partition("#")[0]
        assert inside and (ROOT / inside).is_file(), url


@EACH
def test_it_is_described_and_so_is_every_setting(block: type[Block]) -> None:
    assert len(block.get_description() or "") > 20
    undescribed = [name for name, field in block.model_fields.items() if not field.description]
    assert undescribed == []


@EACH
def test_its_example_is_code_that_loads_it(block: type[Block]) -> None:
    example = block.get_code_example() or ""
    (code,) = re.findall(r"```python\n(.*?)```", example, re.DOTALL)
    tree = ast.parse(code)
    imported = [
        (node.module, alias.name) for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert (blocks.__name__, block.__name__) in imported
    assert f"{block.__name__}.load(" in code
    assert getattr(blocks, block.__name__) is block


def test_they_are_registered_by_prefect_s_command(prefect_server: object) -> None:
    command = [sys.executable, "-m", "prefect", "block", "register", "-m", "sightflow.blocks"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"Successfully registered {len(TYPES)} blocks" in done.stdout


def test_one_of_them_is_imported_alone() -> None:
    program = (
        "import sys; from sightflow.blocks import Florence2; "
        "print(*sorted(name for name in sys.modules if name.startswith('sightflow.blocks.models.systems.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sightflow.blocks.models.systems.florence2"]
