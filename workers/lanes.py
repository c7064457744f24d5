"""The lane that runs a loaded model, by its verdict and its device."""

import logging
from collections.abc import Iterator
from itertools import count, takewhile

import torch

from tokenyard.broker.errors import first_line
from tokenyard.workers.batch import GROUP_BYTES
from tokenyard.workers.embedder import EncoderLane
from tokenyard.workers.graph_lane import GraphLane
from tokenyard.workers.graph_sampler import GraphSampler
from tokenyard.workers.graphs import CudaRecorder, Recorder, num_rows
from tokenyard.workers.lane import Lane
from tokenyard.workers.late import LateCapture
from tokenyard.workers.model import EngineOptions, LoadedModel
from tokenyard.workers.paged import PagedLane
from tokenyard.workers.plain import PlainLane, PlainModel
from tokenyard.workers.sampler import Sampler
from tokenyard.workers.static_step import gathered_decode

log = logging.getLogger(__name__)


def make_lane(model: LoadedModel, options: EngineOptions) -> Lane:
    """A fresh lane, with no sequence in it."""
    if model.verdict.lane == "plain":
        return PlainLane(PlainModel(model.model, model.verdict.way), model.rack)
    if model.verdict.lane == "encoder":
        return EncoderLane()
    paged = PagedLane(model)
    if model.device.type != "cuda" or options.eager:
        return paged
    recorder = _recorder(model.device, model.graph_bytes if options.late else 0)
    return graphed(model, paged, num_rows(options.max_num_seqs, options.num_drafts), recorder)


def _recorder(device: torch.device, reserved_bytes: int) -> CudaRecorder:
    """With memory of its own if there is so much: a --kv-memory in bytes may have left less."""
    try:
        return CudaRecorder(device, reserved_bytes)
    except RuntimeError as failure:
        log.warning("no memory is kept for CUDA graphs: %s", first_line(failure))
        return CudaRecorder(device)


def graphed(model: LoadedModel, paged: PagedLane, most: int, recorder: Recorder) -> GraphLane:
    """The paged lane with its decodes as CUDA graphs of up to `most` rows, none of which is recorded yet.

    With one width of block tables where a kernel reads only what is there, else with all powers of 2.
    """
    longest = -(-min(model.card.context_length, model.card.pool_tokens) // model.card.block_size)
    if paged.kernels.decode is not None:
        return GraphLane(model, paged, most, [longest], paged.kernels.decode, recorder)
    widths = [*takewhile(longest.__gt__, (4 << doublings for doublings in count())), longest]
    most_blocks = GROUP_BYTES["cuda"] // (paged.pool.token_bytes * model.card.block_size)
    return GraphLane(model, paged, most, widths, gathered_decode, recorder, most_blocks)


def make_sampler(lane: Lane, vocab_size: int, device: torch.device) -> Sampler:
    """A sampler for what the lane computes; with graphs if the lane has some."""
    if isinstance(lane, GraphLane):
        return GraphSampler(vocab_size, device, lane.logits, lane.buckets)
    return Sampler(vocab_size, device)


def make_capture(lane: Lane, sampler: Sampler, late: bool) -> LateCapture | None:
    """What records the graphs of both; None where they have none, or where it is done now, as nobody waits."""
    if not (isinstance(lane, GraphLane) and isinstance(sampler, GraphSampler)):
        return None

    def recording() -> Iterator[None]:
        yield from lane.recording()
        yield from sampler.recording(lane.recorder)

    capture = LateCapture(recording(), lambda: lane.num_graphs + sampler.num_graphs)
    if late:
        return capture
    capture.finish()
    return None
