"""Prompts that an engine takes for cached."""

from engine_rig import Place, Rig
from made_up import remember


def test_a_remembered_prompt_is_computed_from_its_last_tokens_on() -> None:
    rig = Rig(Place("demo", "cpu", "float32", 1, {"compile": False}))
    for seed in (1, 2):
        remember(rig, seed, 100)
    rig.engine.check()
    for seed in (1, 2, 3):
        rig.add(seed, 100, 2)
    rig.step()
    assert rig.engine.load()["hit_tokens"] == 2 * 96
    rig.drain()
