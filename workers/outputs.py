"""What the engine tells of a step: one delta a sequence."""

from typing import NamedTuple

from tokenyard.broker.wire import Delta, Finish, WorkerJob
from tokenyard.workers.drawn import Sampled
from tokenyard.workers.scheduler import Sequence


class Output(NamedTuple):
    """What one step added to one job."""

    key: WorkerJob
    delta: Delta


def make_output(
    sequence: Sequence,
    first_index: int,
    token_ids: list[int],
    sampled: Sampled | None = None,
    finish: Finish | None = None,
    extra: dict[str, object] | None = None,
) -> Output:
    """A delta; the first of a sequence tells how much of the prompt was found cached."""
    extra = extra or {}
    if not sequence.announced:
        sequence.announced = True
        extra["cached_tokens"] = min(sequence.hit_tokens, sequence.num_prompt)
        if sequence.shelf:
            extra["adapter_version"] = sequence.adapter.version
    if sampled is not None and sampled.logprobs is not None:
        extra["logprobs"] = [list(sampled.logprobs)]
    job = sequence.job
    return Output(job, Delta(job.job, job.attempt, first_index, token_ids, extra, finish))
