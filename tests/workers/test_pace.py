"""The budget of prompt tokens, on a machine of invented speeds."""

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenyard.workers.pace import CALM_STEPS, ENOUGH, STALLED_STEP_S, WINDOW, Pace, Work

MAX, MIN = 512, 16


@dataclass
class Machine:
    """What a step lasts here; `slow` factors come by turns, as from other processes."""

    step_s: float = 0.010
    decode_s: float = 0.0005
    token_s: float = 0.001
    mixed_s: float = 0.0
    """What any prompt costs a step beside its tokens."""
    slow: list[float] = field(default_factory=lambda: [1.0])
    num_steps: int = 0

    def calm(self, num_decodes: int) -> float:
        return self.step_s + num_decodes * self.decode_s

    def took(self, work: Work) -> float:
        self.num_steps += 1
        prompt_s = work.num_prompt_tokens * self.token_s + (self.mixed_s if work.num_prompt_tokens else 0)
        return (self.calm(work.num_decodes) + prompt_s) * self.slow[self.num_steps % len(self.slow)]

    def teach(self, pace: Pace, num_decodes: int, num_prompt_tokens: int = 0, count: int = WINDOW) -> None:
        work = Work(num_decodes, num_prompt_tokens)
        for _ in range(count):
            pace.learn(work, self.took(work))

    def long_prompt(self, pace: Pace, num_decodes: int, num_tokens: int = 1800) -> list[float]:
        """Durations of the steps in which it is computed beside decodes, in calm steps."""
        steps = []
        while num_tokens > 0:
            work = Work(num_decodes, min(num_tokens, pace.budget(num_decodes)))
            steps.append(self.took(work) / self.calm(num_decodes))
            pace.learn(work, steps[-1] * self.calm(num_decodes))
            num_tokens -= work.num_prompt_tokens
        return steps


def test_a_prompt_alone_gets_everything() -> None:
    pace = Pace(MAX, MIN)
    assert pace.budget(0) == MAX
    Machine().teach(pace, 4)
    Machine().teach(pace, 0, 300)
    assert pace.budget(0) == MAX


def test_before_anything_is_known_it_gets_everything() -> None:
    pace, machine = Pace(MAX, MIN), Machine()
    assert pace.budget(4) == MAX
    machine.teach(pace, 4, 0, ENOUGH)
    assert pace.budget(4) == MAX, "what a prompt costs is not known"
    pace = Pace(MAX, MIN)
    machine.teach(pace, 0, 300)
    assert pace.budget(4) == MAX, "what a step of theirs lasts is not known"


@pytest.mark.parametrize("num_decodes", [1, 4, 32])
def test_a_long_prompt_keeps_steps_short(num_decodes: int) -> None:
    pace, machine = Pace(MAX, MIN), Machine()
    machine.teach(pace, num_decodes)
    machine.teach(pace, 0, 60)
    steps = machine.long_prompt(pace, num_decodes)
    assert all(one <= CALM_STEPS * 1.01 for one in steps)
    assert sum(steps) <= 1.6 * 1800 * machine.token_s / machine.calm(num_decodes), "2 of 3 calm steps go to the prompt"


def test_streams_that_stand_still_may_hold_up_the_others_for_a_moment() -> None:
    pace, machine = Pace(MAX, MIN), Machine(step_s=0.005, decode_s=0.0, token_s=0.00025)
    machine.teach(pace, 4)
    machine.teach(pace, 0, 200)
    assert machine.took(Work(4, pace.budget(4))) <= CALM_STEPS * 0.005
    lasts_s = machine.took(Work(4, pace.budget(4, stalled=True)))
    assert 0.85 * STALLED_STEP_S < lasts_s <= STALLED_STEP_S
    slow = Machine(step_s=0.2, decode_s=0.0, token_s=0.004)
    pace = Pace(MAX, MIN)
    slow.teach(pace, 4)
    slow.teach(pace, 0, 200)
    assert pace.budget(4, stalled=True) == pace.budget(4), "there a step lasts for longer anyway"


def test_a_cost_of_mixing_is_found() -> None:
    pace, machine = Pace(MAX, MIN), Machine(mixed_s=0.008)
    machine.teach(pace, 4)
    machine.teach(pace, 0, 512)
    steps = machine.long_prompt(pace, 4)
    assert all(one <= 4 for one in steps)
    assert steps[-2] == pytest.approx(CALM_STEPS, rel=0.1)


def test_prompts_go_on_where_nothing_is_short_enough() -> None:
    pace, machine = Pace(MAX, MIN), Machine(mixed_s=1.0)
    machine.teach(pace, 4)
    machine.teach(pace, 4, MIN)
    assert pace.budget(4) == MIN


def test_where_prompts_cost_nothing_they_get_everything() -> None:
    pace, machine = Pace(MAX, MIN), Machine(token_s=0.0)
    machine.teach(pace, 4)
    machine.teach(pace, 4, 100)
    assert pace.budget(4) == MAX


def test_every_second_step_but_one_may_be_an_outlier() -> None:
    calm, shaken = Pace(MAX, MIN), Pace(MAX, MIN)
    for pace, slow in ((calm, [1.0]), (shaken, [1.0, 10.0] * (WINDOW // 2) + [1.0])):
        machine = Machine(slow=slow)
        machine.teach(pace, 4)
        machine.teach(pace, 4, 20)
    assert shaken.budget(4) == pytest.approx(calm.budget(4), abs=1)


def test_short_suffixes_say_nothing_of_a_token() -> None:
    pace, machine = Pace(MAX, MIN), Machine(mixed_s=0.005)
    machine.teach(pace, 4)
    machine.teach(pace, 4, 100)
    before = pace.budget(4)
    machine.teach(pace, 0, 3)
    assert pace.budget(4) == before


def test_what_is_not_known_of_so_many_is_taken_from_fewer() -> None:
    pace, machine = Pace(MAX, MIN), Machine()
    machine.teach(pace, 2)
    machine.teach(pace, 9)
    machine.teach(pace, 0, 200)
    budgets = [pace.budget(num_decodes) for num_decodes in (1, 2, 4, 7, 8, 33)]
    assert budgets[:4] == [budgets[0]] * 4
    assert budgets[4:] == [budgets[4]] * 2
    assert budgets[4] > budgets[0]


@given(
    step_s=st.floats(1e-4, 1.0),
    decode_s=st.floats(0, 0.1),
    token_s=st.floats(0, 0.1),
    noise=st.floats(0, 0.2),
    history=st.lists(st.tuples(st.integers(0, 64), st.sampled_from([0, 1, 15, 16, 60, 512])), max_size=60),
    seed=st.integers(0, 99),
)
def test_any_machine_after_any_history(
    step_s: float, decode_s: float, token_s: float, noise: float, history: list[tuple[int, int]], seed: int
) -> None:
    """Budgets stay within bounds, and once both costs were measured, no step of a long prompt is much too long."""
    random = Random(seed)
    slow = [1 + noise * random.random() for _ in range(97)]
    machine = Machine(step_s, decode_s, token_s, slow=slow)
    pace = Pace(MAX, MIN)
    for num_decodes, num_prompt_tokens in history:
        if num_decodes or num_prompt_tokens:
            machine.teach(pace, num_decodes, num_prompt_tokens, 1)
        assert MIN <= pace.budget(num_decodes) <= MAX
    machine.teach(pace, 4)
    machine.teach(pace, 4, 64)
    floor = machine.took(Work(4, MIN)) / machine.calm(4)
    for one in machine.long_prompt(pace, 4):
        assert one <= max(4.0, floor * 1.2)
