"""What must hold in the broker's memory after every event; tests call it through Core.check."""

from collections import Counter

from tokenyard.broker.membership import clash, identity
from tokenyard.broker.progress import HUNG
from tokenyard.broker.records import Peer, Phase, State


def check_state(state: State) -> None:
    """Assert that peers, jobs, placements, queues and sums tell one story."""
    _check_peers(state)
    _check_jobs(state)
    _check_names(state)
    for model in state.models.values():
        model.check()
    assert not state.out, "an action was left behind"


def _check_peers(state: State) -> None:
    known: list[Peer] = [*state.fronts.values(), *state.workers.values(), *state.agents.values()]
    assert state.peers == {sender.peer: sender for sender in known if sender.peer}
    owned = {inc: agent for agent in state.agents.values() for inc in agent.workers}
    assert state.owners == owned
    assert len(owned) == sum(len(agent.workers) for agent in state.agents.values()), "a worker of two agents"
    for worker in state.workers.values():
        assert worker.peer
        assert (worker.model is None) == (worker.card is None)
        assert worker.model or not worker.placements
        assert (worker.offer is not None) == bool(worker.kept_out)
        assert worker.card is None or worker.offer is None
        assert (worker.state == HUNG) == bool(worker.stuck)
        assert not worker.stuck or all(placement.job is None for placement in worker.placements.values())
    for front in state.fronts.values():
        assert front.peer or state.now <= state.grace_until_s
        assert not (state.settled and front.claims), "a claim was never decided"


def _check_names(state: State) -> None:
    cards = [worker.card for worker in state.workers.values() if worker.card is not None]
    assert not any(clash(one, other) for one in cards for other in cards), "one name for two models"
    for worker in state.workers.values():
        assert worker.offer is None or any(clash(card, worker.offer) for card in cards), "kept out for nothing"


def _check_jobs(state: State) -> None:
    jobs = [job for front in state.fronts.values() for job in front.jobs.values()]
    placements = [item for worker in state.workers.values() for item in worker.placements.items()]
    live = [(key, placement.job) for key, placement in placements if placement.job is not None]
    assert all(job.key == key for key, job in live), "a placement of another attempt"
    assert Counter(job for _, job in live) == Counter(job for job in jobs if job.phase is Phase.PLACED), (
        "a placement without its job, the reverse, or two of one job"
    )
    queued = {job for model in state.models.values() for queue in model.queues.values() for job in queue.all()}
    assert queued == {job for job in jobs if job.phase is Phase.QUEUED}
    assert state.num_queued == len(queued)
    lingering = {job for _, job in state.ended}
    for job in jobs:
        assert job.front.jobs[job.number] is job
        assert (job.worker is not None) == (job.phase is Phase.PLACED)
        assert (job.submit is not None) == (job.phase is Phase.QUEUED) == (job.model is not None)
        if job.worker is not None:
            assert state.workers[job.worker.inc] is job.worker
            assert job.worker.card is not None
            assert job.identity == identity(job.worker.card), "a stream goes on with another model"
            assert job.worker.placements[job.key].job is job
        if job.phase is Phase.ENDED:
            assert job in lingering, "an ended job that nobody will forget"
