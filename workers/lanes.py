"""The lane that runs a loaded model, by its verdict and its device."""

import logging
import time
from itertools import count, takewhile

import torch

from tokenyard.workers.batch import GROUP_BYTES
from tokenyard.workers.embedder import EncoderLane
from tokenyard.workers.graph_lane import GraphLane
from tokenyard.workers.graph_sampler import GraphSampler
from tokenyard.workers.graphs import CudaRecorder, Recorder, num_rows
from tokenyard.workers.kernels import compile_failures
from tokenyard.workers.lane import Lane
from tokenyard.workers.model import EngineOptions, LoadedModel
from tokenyard.workers.paged import PagedLane
from tokenyard.workers.plain import PlainLane, PlainModel
from tokenyard.workers.sampler import Sampler
from tokenyard.workers.selftest import first_line, tolerance
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
    return graphed(model, paged, num_rows(options.max_num_seqs, options.num_drafts), CudaRecorder(model.device))


def graphed(model: LoadedModel, paged: PagedLane, most: int, recorder: Recorder) -> Lane:
    """The paged lane with its decodes as CUDA graphs of up to `most` rows, unless they fail or give other logits."""
    began = time.perf_counter()
    lane = _graph_lane(model, paged, most)
    try:
        lane.record(recorder)
        error = lane.selftest()
    except compile_failures() as failure:
        log.warning("no CUDA graphs: the model cannot be recorded: %s", first_line(failure))
        return paged
    if not error <= tolerance(model.model):  # NaN fails too
        log.warning("no CUDA graphs: they give other logits (by %.2g)", error)
        return paged
    log.info("recorded %d CUDA graphs in %.1f s", lane.num_graphs, time.perf_counter() - began)
    return lane


def _graph_lane(model: LoadedModel, paged: PagedLane, most: int) -> GraphLane:
    """With one width of block tables where a kernel reads only what is there, else with all powers of 2."""
    longest = -(-min(model.card.context_length, model.card.pool_tokens) // model.card.block_size)
    if paged.kernels.decode is not None:
        return GraphLane(model, paged, most, [longest], paged.kernels.decode)
    widths = [*takewhile(longest.__gt__, (4 << doublings for doublings in count())), longest]
    most_blocks = GROUP_BYTES["cuda"] // (paged.pool.token_bytes * model.card.block_size)
    return GraphLane(model, paged, most, widths, gathered_decode, most_blocks)


def make_sampler(lane: Lane, vocab_size: int, device: torch.device) -> Sampler:
    """A sampler for what the lane computes; with graphs if the lane has some."""
    if not isinstance(lane, GraphLane) or lane.recorder is None:
        return Sampler(vocab_size, device)
    sampler = GraphSampler(vocab_size, device, lane.logits, lane.buckets)
    sampler.record(lane.recorder)
    return sampler
