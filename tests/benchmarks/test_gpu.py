"""The benchmark for GPUs runs, shrunken, on a CPU, and says where it cannot measure."""

import re

import pytest
import torch

from benchmarks import gpu


def test_every_model_is_measured_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--tiny", "--seconds", "0", "--batch", "2"]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^(\S+), 2 pictures", said, re.MULTILINE) == [shape.name for shape in gpu.SHAPES]
    assert len(re.findall(r"^  ours  ", said, re.MULTILINE)) == len(gpu.SHAPES)
    assert said.count("prefixes not shared") == len(gpu.SHAPES) - 1
    rates = re.findall(r"([\d.]+) items/s +([\d.]+) tokens/s", said)
    assert len(rates) == 3 * len(gpu.SHAPES) - 1
    assert all(float(items) > 0 and float(tokens) > 0 for items, tokens in rates)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().out
