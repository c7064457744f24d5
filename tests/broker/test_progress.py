"""Workers that live and do not go on: hung engines, and processes that stay silent."""

from switch import MODEL, NAMES, Switch, held, inc, submit

from tokenyard.broker.config import BEAT_S, SILENCE_S
from tokenyard.broker.progress import SILENT_KILL_S
from tokenyard.broker.wire import (
    Abort,
    Answer,
    Beat,
    Done,
    Exited,
    Kill,
    Lost,
    Placed,
    Refused,
    Reject,
    Start,
    Status,
    WorkerDown,
    WorkerJob,
)

STEP_MS = 3000


class Pool(Switch):
    """A front, an agent, and workers that say of what they are at."""

    def __init__(self, *workers: str) -> None:
        super().__init__()
        self.front()
        self.agent(*workers)
        for worker in workers:
            self.worker(worker)
        self.say("front", submit(1))
        self.mail("front")

    def step(self, name: str, step: int, *jobs: WorkerJob, lasts_s: float, step_ms: int = STEP_MS) -> None:
        """Beats for so long from within one step."""
        for _ in range(round(lasts_s / BEAT_S)):
            self.wait(BEAT_S, alive=("front", "agent"))
            self.tell(name, Beat(inc(name), "ready", step, 0, list(jobs), {}, step_ms))

    def state_of(self, name: str) -> tuple[str, str]:
        (answer,) = (one for one in self.say("operator", Status(1)) if isinstance(one, Answer))
        (row,) = (row for row in answer.body["workers"] if row["inc"] == inc(name).hex())
        return row["state"], row["words"]


def test_a_step_within_its_time_is_left_alone_however_long() -> None:
    pool = Pool("w")
    pool.step("w", 7, held("front", 1), lasts_s=60, step_ms=60_000)
    pool.step("w", 8, held("front", 1), lasts_s=60, step_ms=60_000)
    pool.step("w", 8, held("front", 1), lasts_s=60, step_ms=0)  # between two steps: it waits for a slow front
    assert pool.mail("agent") == []
    assert pool.mail("front") == []


def test_a_hung_engine_loses_its_jobs_at_once_and_its_process() -> None:
    pool = Pool("w")
    pool.step("w", 7, held("front", 1), lasts_s=STEP_MS / 1000 + 1)
    assert pool.mail("front") == [Lost(1, 1, 1)], "it counts as a crash does"
    assert Abort(inc("front"), 1, 1) in pool.mail("w")
    kill, *_ = pool.mail("agent")
    assert isinstance(kill, Kill)
    assert kill == Kill(inc("w"), kill.words)
    assert kill.words.startswith("hung: step 8 lasts for ")
    assert pool.state_of("w") == ("hung", kill.words.removeprefix("hung: "))
    pool.wait(1, alive=("front", "agent"))
    assert kill in pool.mail("agent"), "the word may have been lost"
    pool.say("front", submit(1, 2, crashes=1))
    assert not any(isinstance(one, Placed) for one in pool.mail("front")), "it takes no jobs"
    pool.tell("agent", Exited(inc("w"), "crash", kill.words))
    assert pool.mail("front") == [WorkerDown(inc("w"))], "what it ran was told before"
    pool.worker("next")
    assert Placed(1, 2, inc("next")) in pool.mail("front")


def test_a_beat_of_no_known_state_is_refused_and_changes_nothing() -> None:
    pool = Pool("w")
    pool.step("w", 7, held("front", 1), lasts_s=STEP_MS / 1000 + 1)
    pool.mail("w")
    pool.tell("w", Beat(inc("w"), "jolly", 8, 0, []))
    assert pool.mail("w") == [Refused("no worker has the state 'jolly'")]
    assert pool.state_of("w")[0] == "hung"


def test_the_jobs_of_a_hung_engine_go_on_elsewhere() -> None:
    pool = Pool("w", "other")
    assert held("front", 1) in pool.core._state.workers[inc("w")].placements
    pool.step("w", 7, held("front", 1), lasts_s=STEP_MS / 1000 + 1)
    pool.worker("other")
    pool.say("front", submit(1, 2, crashes=1))
    assert any(isinstance(one, Start) and one.attempt == 2 for one in pool.mail("other"))


def test_a_job_that_hangs_every_engine_fails_after_three() -> None:
    pool = Pool("w1", "w2", "w3")
    for attempt, crashes in ((1, 0), (2, 1), (3, 2)):
        if attempt > 1:
            pool.say("front", submit(1, attempt, crashes=crashes))
        job = pool.core._state.fronts[inc("front")].jobs[1]
        assert job.worker is not None
        name = NAMES[job.worker.inc]
        others = [other for other in ("w1", "w2", "w3") if other != name]
        for _ in range(10):
            for other in others:
                pool.tell(other, Beat(inc(other), "ready", 1, 0, []))
            pool.step(name, 7, held("front", 1, attempt), lasts_s=BEAT_S)
        lost = [one for one in pool.mail("front") if isinstance(one, Lost)]
        assert lost == [Lost(1, attempt, crashes + 1)]
        pool.tell("agent", Exited(inc(name), "crash", "hung"))
    (answer,) = pool.say("front", submit(1, 4, crashes=3))
    assert isinstance(answer, Reject)
    assert answer.code == "job_crashes_workers"


def test_one_that_goes_on_after_all_serves_again() -> None:
    pool = Pool()
    pool.worker("alone")
    pool.say("front", submit(2))
    pool.say("front", submit(1))
    pool.step("alone", 7, held("front", 1), lasts_s=STEP_MS / 1000 + 1)
    assert pool.state_of("alone")[0] == "hung"
    assert pool.mail("agent") == [], "nobody owns it"
    pool.tell("alone", Done(inc("front"), 1, 1, "aborted"))
    pool.step("alone", 8, lasts_s=BEAT_S)
    assert pool.state_of("alone") == ("ready", "")
    pool.say("front", submit(3))
    assert any(isinstance(one, Start) and one.job == 3 for one in pool.mail("alone"))


def test_a_broker_that_was_stopped_itself_judges_nobody() -> None:
    pool = Pool("w")
    pool.step("w", 7, held("front", 1), lasts_s=1)
    pool.now += 100
    pool.tell("w", Beat(inc("w"), "ready", 7, 0, [held("front", 1)], {}, STEP_MS))
    pool.wait(1, alive=("front", "agent"))
    assert pool.mail("agent") == []
    assert pool.state_of("w")[0] == "ready"


def test_a_process_that_stays_silent_is_killed_and_what_it_ran_is_suspect() -> None:
    pool = Pool("w")
    pool.wait(SILENCE_S + 1, alive=("front", "agent"))
    assert Lost(1, 1, 0) in pool.mail("front")
    pool.say("front", submit(1, 2))
    pool.wait(SILENT_KILL_S - 2, alive=("front", "agent"))
    assert pool.mail("agent") == []
    pool.wait(2, alive=("front", "agent"))
    (kill,) = pool.mail("agent")
    assert isinstance(kill, Kill)
    pool.tell("agent", Exited(inc("w"), "crash", kill.words))
    assert pool.core._state.fronts[inc("front")].jobs[1].crashes == 1


def test_one_that_was_merely_stopped_is_not_killed() -> None:
    pool = Pool("w")
    pool.wait(SILENCE_S + 1, alive=("front", "agent"))
    pool.worker("w")
    for _ in range(round(SILENT_KILL_S / BEAT_S)):
        pool.wait(BEAT_S, alive=("front", "agent"))
        pool.tell("w", Beat(inc("w"), "ready", 7, 0, []))
    assert pool.mail("agent") == []
    assert MODEL in pool.core._state.models
