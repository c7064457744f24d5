"""Which workers live but do not go on: engines that hang in a step, processes that stay silent. Sans-IO.

A worker that hangs keeps its connection and its beats, so that silence never tells. Its beats say how long the step at
hand may honestly last; the time is counted here, by the step number. Its streams go on elsewhere at once, as after a
crash, for a process in a device call that never returns may outlive even SIGKILL. Its agent is asked to kill it.
"""

import logging

from tokenyard.broker.jobs import Jobs
from tokenyard.broker.records import Death, State, Worker
from tokenyard.broker.wire import Beat, Kill

HUNG = "hung"
"""What a worker's state is then, whatever it says itself; it takes no jobs."""

SILENT_KILL_S = 60.0
"""A process that has been silent for so long is killed: one that was merely stopped has been given up long since, and
would be welcome back, but one whose interpreter hangs holds its device for ever."""

log = logging.getLogger("broker")


class Progress:
    """Over a State that it shares with the rest of the core; looked at once a sweep."""

    def __init__(self, state: State, jobs: Jobs) -> None:
        self._state = state
        self._jobs = jobs
        self._stepping: dict[bytes, Worker] = {}
        """Those that are in a step which lasts; nearly always none, so that a look costs nothing."""
        self._silent: dict[bytes, float] = {}
        """When each worker that was forgotten for its silence is killed."""

    def beat(self, worker: Worker, beat: Beat) -> None:
        """Note what its engine is at. One that goes on after all may serve again, if it has not been killed."""
        worker.step_s = beat.step_ms / 1000
        if worker.step_s:
            self._stepping[worker.inc] = worker
        else:
            self._stepping.pop(worker.inc, None)
        if beat.step != worker.step or not beat.step_ms:
            worker.stepped_s, worker.stuck = self._state.now, ""
        worker.step = beat.step
        if worker.stuck:
            worker.state = HUNG

    def excuse(self) -> None:
        """We were stopped ourselves: what was not heard meanwhile says nothing."""
        for worker in self._stepping.values():
            worker.stepped_s = self._state.now

    def is_silent(self, worker: Worker) -> float:
        """It has been forgotten for its silence; returns until when a crash must be remembered."""
        self._silent[worker.inc] = self._state.now + SILENT_KILL_S
        return self._silent[worker.inc]

    def is_back(self, inc: bytes) -> None:
        """It speaks again, or its process has ended."""
        self._silent.pop(inc, None)

    def sweep(self) -> None:
        """Find who hangs, and have them killed."""
        now = self._state.now
        workers = self._state.workers
        self._stepping = {inc: one for inc, one in self._stepping.items() if workers.get(inc) is one}
        for worker in self._stepping.values():
            lasted_s = now - worker.stepped_s
            if lasted_s > worker.step_s:
                if not worker.stuck:
                    self._give_up(worker, f"step {worker.step + 1} lasts for {lasted_s:.0f} s")
                self._kill(worker.inc, f"hung: {worker.stuck}")
        for inc in [inc for inc, due_s in self._silent.items() if due_s <= now]:
            del self._silent[inc]
            self._kill(inc, f"hung: silent for over {SILENT_KILL_S:.0f} s")

    def _give_up(self, worker: Worker, words: str) -> None:
        """All that runs there is lost, and that counts as a crash does; nothing new goes there."""
        log.error("worker %s %s (pid %d) is hung: %s", worker.inc.hex(), worker.name, worker.pid, words)
        worker.stuck, worker.state = words, HUNG
        death = Death(self._jobs.abandon(worker), self._state.now)
        self._jobs.count_crash(death)
        self._jobs.announce(death.jobs)

    def _kill(self, inc: bytes, words: str) -> None:
        """Asked at each sweep, as the word may be lost. A worker that no agent owns has to be ended by hand."""
        if agent := self._state.owners.get(inc):
            self._state.send(agent.peer, Kill(inc, words))
