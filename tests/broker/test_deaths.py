"""When the owners of a dead worker's jobs hear of it, and what counts against them."""

from itertools import count

import pytest
from switch import NAMES, Switch, inc, submit

from tokenyard.broker.config import EXIT_WAIT_S
from tokenyard.broker.deaths import PUZZLE_S
from tokenyard.broker.records import MAX_CRASHES
from tokenyard.broker.wire import Done, Dying, Exited, Goodbye, Lost, Placed, Reject, Status


def pool(*workers: str) -> Switch:
    """One job on each worker."""
    switch = Switch()
    switch.front()
    switch.agent(*workers)
    for job, worker in enumerate(workers):
        switch.worker(worker, capacity=8)
        switch.say("front", submit(job))
        assert switch.core._state.fronts[inc("front")].jobs[job].worker is not None
    switch.mail("front")
    return switch


def lost(switch: Switch) -> list[Lost]:
    return [one for one in switch.mail("front") if isinstance(one, Lost)]


def crashes(switch: Switch, job: int) -> int:
    return switch.core._state.fronts[inc("front")].jobs[job].crashes


def test_a_dying_process_loses_its_jobs_long_before_it_is_reaped() -> None:
    switch = pool("w1", "w2")
    switch.tell("agent", Dying(inc("w1")))
    switch.wait(EXIT_WAIT_S, alive=("front", "agent"))
    assert lost(switch) == [Lost(0, 1, 0)]
    assert any(isinstance(one, Placed) and one.worker == inc("w2") for one in switch.say("front", submit(0, 2)))
    switch.gone("w1")  # its sockets close
    switch.tell("agent", Exited(inc("w1"), "crash", "died of SIGSEGV"))
    assert lost(switch) == []
    assert crashes(switch, 0) == 1, "the word came late, and counts"


def test_a_second_unexplained_death_waits_for_its_word() -> None:
    """Or a job that kills its workers would go through all of them before the first death is counted."""
    switch = pool("w1", "w2", "w3")
    switch.tell("agent", Dying(inc("w1")))
    switch.tell("agent", Dying(inc("w2")))
    switch.wait(PUZZLE_S / 2, alive=("front", "agent"))
    assert lost(switch) == [Lost(0, 1, 0)]
    switch.tell("agent", Exited(inc("w2"), "crash", "died of SIGSEGV"))
    assert lost(switch) == [Lost(1, 1, 1)]


def test_a_suspect_waits_for_its_word_and_its_neighbours_do_not() -> None:
    switch = pool("w1", "w2", "w3")
    switch.tell("agent", Dying(inc("w1")))
    switch.say("front", submit(0, 2))
    worker = next(name for name in ("w2", "w3") if len(switch.core._state.workers[inc(name)].placements) == 2)
    neighbour = int(worker[1]) - 1
    switch.tell("agent", Exited(inc("w1"), "crash", "died of SIGSEGV"))
    switch.tell("agent", Dying(inc(worker)))
    switch.wait(PUZZLE_S / 2, alive=("front", "agent"))
    assert lost(switch) == [Lost(neighbour, 1, 0)]
    switch.tell("agent", Exited(inc(worker), "crash", "died of SIGSEGV"))
    assert lost(switch) == [Lost(0, 2, 2)]


@pytest.mark.parametrize("num_prompt_words", [0, 1])
def test_late_words_cost_no_neighbour_its_answer_and_no_fourth_worker_its_life(num_prompt_words: int) -> None:
    """Job 0 kills what runs it, at once; a fresh worker is always up, and words come only once nothing else happens."""
    switch = Switch()
    switch.front()
    names = (f"w{number}" for number in count(1))
    owned: list[str] = []
    untold: list[bytes] = []
    failed: dict[int, str] = {}
    num_deaths = calm = 0

    def add_worker() -> None:
        owned.append(next(names))
        switch.agent(*owned)
        switch.worker(owned[-1], capacity=8)

    for _ in range(2):
        add_worker()
    for number in range(8):
        switch.tell("front", submit(number))
    for _ in range(50):
        for message in switch.mail("front"):
            if isinstance(message, Lost):
                switch.tell("front", submit(message.job, message.attempt + 1, crashes=message.crashes))
            elif isinstance(message, Reject):
                failed[message.job] = message.code
        poisoned, *others = switch.core._state.fronts[inc("front")].jobs.values()
        for job in others:
            if job.crashes and job.worker not in (None, poisoned.worker):
                switch.tell(NAMES[job.worker.inc], Done(*job.key, "stop"))
        if poisoned.worker is not None:
            untold.append(poisoned.worker.inc)
            switch.tell("agent", Dying(untold[-1]))
            num_deaths += 1
            calm = 0
            add_worker()
        calm += 1
        if calm > 2 or num_deaths <= num_prompt_words:
            for dead in untold:
                switch.tell("agent", Exited(dead, "crash", "died of SIGSEGV"))
            untold.clear()
        switch.wait(EXIT_WAIT_S, alive=("front", "agent"))
    assert failed == {0: "job_crashes_workers"}
    assert num_deaths == MAX_CRASHES


def test_a_word_that_never_comes_is_not_waited_for_for_ever() -> None:
    switch = pool("w1", "w2", "w3")
    switch.tell("agent", Dying(inc("w1")))
    switch.tell("agent", Dying(inc("w2")))
    switch.wait(PUZZLE_S, alive=("front", "agent"))
    assert lost(switch) == [Lost(0, 1, 0), Lost(1, 1, 0)]


def test_deaths_that_are_explained_hold_up_nobody() -> None:
    switch = pool("w1", "w2", "w3")
    switch.tell("agent", Dying(inc("w1")))
    switch.tell("agent", Exited(inc("w1"), "killed", "SIGKILL from outside"))
    switch.tell("agent", Dying(inc("w2")))
    switch.wait(EXIT_WAIT_S, alive=("front", "agent"))
    assert lost(switch) == [Lost(0, 1, 0), Lost(1, 1, 0)]


def test_a_worker_that_fails_by_itself_says_why_before_it_ends() -> None:
    switch = pool("w1", "w2")
    switch.tell("w1", Goodbye(inc("w1"), "an illegal memory access"))
    assert lost(switch) == [Lost(0, 1, 1)], "at once, and counted"
    switch.tell("agent", Dying(inc("w1")))
    switch.tell("agent", Exited(inc("w1"), "crash", "exit status 1"))
    assert crashes(switch, 0) == 1, "once"
    (answer,) = switch.say("operator", Status(1))
    assert sum(answer.body["broker"]["lost_workers"].values()) == 1  # type: ignore[union-attr]


def test_a_worker_that_drains_is_not_lost_when_its_process_ends() -> None:
    switch = pool("w1")
    switch.worker("w1", state="draining")
    switch.tell("agent", Dying(inc("w1")))
    (answer,) = switch.say("operator", Status(1))
    assert not answer.body["broker"]["lost_workers"]  # type: ignore[union-attr]
