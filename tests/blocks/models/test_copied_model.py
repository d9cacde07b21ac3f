"""A copied model, which may have other settings, keeps nothing that was found out about the first."""

from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL


def test_a_copy_with_another_id_speaks_in_the_coordinates_of_its_own_generation() -> None:
    model = Qwen2VL(id="Qwen/Qwen2-VL-7B-Instruct")
    assert model.known_generation == "qwen2_vl"
    assert model.model_copy(update={"id": "Qwen/Qwen2.5-VL-7B-Instruct"}).known_generation == "qwen2_5_vl"
