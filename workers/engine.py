"""One model on one device: takes sequences, and each step gives each of them its next tokens.

`step()` is three verbs: schedule, launch, land. Where the lane can run ahead, a step lands only after the next one was
launched, so that the device never waits for us; elsewhere it lands at once. Errors of one sequence end that sequence; a
device error leaves step() and ends the process. Called from one thread. Must not know of sockets (main.py) nor read a
clock: who calls step() may say how long it took (took()).
"""

import logging
import math
from typing import NamedTuple

import torch

from tokenyard.broker.errors import TokenyardError
from tokenyard.broker.params import Params
from tokenyard.broker.prefix import root_key
from tokenyard.broker.wire import PLAIN, AdapterKey, Delta, Finish, WorkerJob
from tokenyard.workers.adapters import Adapters
from tokenyard.workers.admission import Admission
from tokenyard.workers.blocks import BlockPool
from tokenyard.workers.drawn import BANNED, BROKEN, Drawn, Sampled
from tokenyard.workers.embedder import Embedder
from tokenyard.workers.grammars import Grammars
from tokenyard.workers.lane import Guessed, Lane, Logits
from tokenyard.workers.lanes import make_capture, make_lane, make_sampler
from tokenyard.workers.late import Late
from tokenyard.workers.leisure import Demand
from tokenyard.workers.memory import Usage
from tokenyard.workers.model import EngineOptions, LoadedModel
from tokenyard.workers.outputs import Output, make_output
from tokenyard.workers.pace import Pace, Work
from tokenyard.workers.patience import Patience
from tokenyard.workers.scheduler import Held, Plan, Scheduler, Sequence
from tokenyard.workers.scoring import score_end
from tokenyard.workers.speculation import Speculation

log = logging.getLogger(__name__)


class Flight(NamedTuple):
    """A step that was launched and whose tokens are not known yet."""

    sequences: list[Sequence]
    """Those that get a token; who has ended meanwhile gets none."""
    drawn: Drawn
    guessed: list[Guessed]


class Engine:
    """The running and waiting sequences of one loaded model."""

    def __init__(self, model: LoadedModel, options: EngineOptions, lane: Lane | None = None) -> None:
        """`lane`: another one than the model's own, for tests."""
        card = model.card
        self.model = model
        self.num_steps = 0
        self._limit = min(card.context_length, card.pool_tokens)
        """Tokens that a sequence can have, prompt and emitted together."""
        self._lane: Lane = lane or make_lane(model, options)
        self._admission = Admission(card, self._limit, self._lane)
        self._scheduler = Scheduler(
            BlockPool(model.num_blocks),
            card.block_size,
            min(options.max_num_seqs, model.num_seqs),
            options.max_batch_tokens,
            root_key(card.commit, card.dtype),
            reuse_prefixes=card.lane == "paged",
            whole_prompts=model.verdict.whole_prompts,
        )
        self._sampler = make_sampler(self._lane, card.vocab_size, model.device)
        self.late: Late | None = make_capture(self._lane, self._sampler, options.late) or model.late
        """What is left to be done between steps, by whoever calls step()."""
        self._grammars = Grammars(card, model.device)
        self._speculation = Speculation(options.num_drafts if self._lane.most_drafts(0) else 0)
        if options.num_drafts and not self._speculation.num_drafts:
            log.warning("--speculate does nothing here: the %s lane cannot check guesses", card.lane)
        self.adapters = Adapters(model.rack)
        self._embedder = Embedder(model, options.max_batch_tokens, self.adapters)
        self._pace = Pace(options.max_batch_tokens, min(card.block_size, options.max_batch_tokens))
        num_params = sum(one.numel() for one in model.model.parameters())
        self._patience = Patience(num_params, model.device.type, options.step_timeout_s)
        self.patience_s = options.step_timeout_s
        """How long the step at hand may last; read by another thread while it does."""
        self._num_threads = torch.get_num_threads()
        self._work: Work | None = None
        """What the last step computed, if it can be held against its time."""
        self._sequences: dict[WorkerJob, Sequence] = {}
        self._flight: Flight | None = None
        self._num_emitted = 0
        """Tokens drawn so far, of all sequences."""
        self._usage = Usage(model.device)
        self._ready: list[Output] = []
        """Outputs that need no step: ends of sequences that had nothing left to do."""

    @property
    def has_work(self) -> bool:
        return bool(self._sequences or self._ready or self._flight or self._embedder.num_waiting)

    def enter_thread(self) -> None:
        """The calling thread is the one that steps: torch keeps the number of its helpers by thread."""
        torch.set_num_threads(self._num_threads)

    def load(self) -> dict[str, int]:
        """Figures for people and for the beat."""
        return {
            "running": len(self._scheduler.running),
            "waiting": len(self._scheduler.waiting),
            "num_blocks": self._scheduler.pool.num_blocks,
            "free_blocks": self._scheduler.pool.num_free,
            "queried_tokens": self._scheduler.queried_tokens,
            "hit_tokens": self._scheduler.hit_tokens,
            "emitted_tokens": self._num_emitted,
            "preempted": self._scheduler.num_preempted,
            "device_bytes": self._usage.at(self.num_steps),
            "compiling": self._grammars.num_compiling,
            "embedding": self._embedder.num_waiting,
            **self._speculation.figures(),
        }

    def add(
        self,
        key: WorkerJob,
        prompt_ids: list[int],
        emitted_ids: list[int],
        params: Params,
        adapter: AdapterKey = PLAIN,
    ) -> None:
        """Take a job in; with `emitted_ids` it is resumed after them. Raises TokenyardError if it can never run."""
        assert key not in self._sequences
        if params.max_tokens < 1:
            raise TokenyardError("invalid_value", "max_tokens must be at least 1", "max_tokens")
        self._admission.check(prompt_ids, emitted_ids, params)
        room = self._limit - len(prompt_ids)
        params = params._replace(max_tokens=min(params.max_tokens, room))
        sequence = Sequence(key, prompt_ids, emitted_ids, params, adapter)
        finish = self._finish(sequence) if emitted_ids else None
        if finish:
            self._ready.append(Output(key, Delta(key.job, key.attempt, len(emitted_ids), [], {}, finish)))
            return
        self._begin(sequence)
        if params.grammar is None:
            self._scheduler.add(sequence)
        else:
            self._grammars.begin(sequence)

    def score(self, key: WorkerJob, ids: list[int], params: Params, adapter: AdapterKey = PLAIN) -> None:
        """Take a job in whose answer is logprobs of given tokens. Raises TokenyardError if it can never run."""
        params = params._replace(max_tokens=0, grammar=None, processors=None)
        self._admission.check(ids, [], params)
        sequence = Sequence(key, ids, [], params, adapter)
        self._begin(sequence)
        self._scheduler.add(sequence)

    def _begin(self, sequence: Sequence) -> None:
        """Raises TokenyardError where its adapter is not here."""
        sequence.shelf = self.adapters.take(sequence.adapter)
        if sequence.shelf:
            sequence.root_key = root_key(self.model.card.commit, self.model.card.dtype, sequence.adapter.text)
        self._sequences[sequence.job] = sequence

    def embed(self, key: WorkerJob, ids: list[int], adapter: AdapterKey = PLAIN) -> None:
        """Take a job in whose answer is one vector. Raises TokenyardError if it can never run."""
        self._embedder.add(key, ids, adapter)

    def abort(self, key: WorkerJob) -> None:
        """Forget a job without a word; an unknown one is none."""
        self._embedder.abort(key)
        self._ready = [output for output in self._ready if output.key != key]
        sequence = self._sequences.get(key)
        if sequence is not None:
            self._forget(sequence)

    def took(self, seconds: float) -> None:
        """The last step lasted so long. Told this after each step, prompts leave running streams their pace.

        On CPU only: on CUDA steps run ahead, so that step() does not last as long as its work, and are short.
        """
        if self._work is not None and self.model.device.type == "cpu":
            self._pace.learn(self._work, seconds)

    @torch.inference_mode()
    def step(self, held: Held = ()) -> list[Output]:
        """Run one step for all sequences but those in `held`."""
        self._work = None
        self._expect(self._embedder.most_tokens)
        embedded = self._embed(held)
        outputs, self._ready = self._ready + self._admit_compiled() + embedded, []
        running = self._scheduler.running
        if self._flight and self._speculation.may_guess(running):
            outputs += self._land()
        drafts = self._speculation.drafts(running, self._lane.most_drafts(len(running)))
        plan = self._scheduler.schedule(held, drafts, self._pace.budget)
        ahead = self._lane.runs_ahead(plan)
        if not ahead:
            outputs += self._land()
            plan = self._living(plan)
        if not any(plan):
            return outputs
        work = _work_of(plan)
        self._expect(work.num_decodes + work.num_prompt_tokens)
        outputs += self._launch(plan)
        if not ahead:
            outputs += self._land()
        self._work = None if embedded else work
        return outputs

    @property
    def demand(self) -> Demand:
        """What there is to do."""
        if not self.has_work:
            return Demand.NOTHING
        lacking = any(one.num_pending > 1 for one in self._scheduler.running)
        waits = lacking or self._scheduler.waiting or self._embedder.num_waiting
        return Demand.PROMPTS if waits else Demand.STREAMS

    @torch.inference_mode()
    def settle(self) -> list[Output]:
        """Land what is in flight: then another may use what a step leaves on the device."""
        return self._land()

    def _expect(self, num_tokens: int) -> None:
        """So much is computed next."""
        self.patience_s = self._patience.of(num_tokens, self._pace.token_s)

    def check(self) -> None:
        """Assert what must hold between steps."""
        self._scheduler.check()
        self.adapters.check()
        waiting_or_running = {*self._scheduler.waiting, *self._scheduler.running}
        compiling = {one for one in self._sequences.values() if self._grammars.is_compiling(one)}
        assert len(compiling) == self._grammars.num_compiling
        assert waiting_or_running == set(self._sequences.values()) - compiling

    def _embed(self, held: Held) -> list[Output]:
        """Run what fits of the texts that wait, beside the streams' own step."""
        outputs = [
            Output(key, Delta(key.job, key.attempt, 0, [], {"cached_tokens": 0, "embedding": vector}, Finish("stop")))
            for key, vector in self._embedder.step(held)
        ]
        self.num_steps += bool(outputs)
        return outputs

    def _admit_compiled(self) -> list[Output]:
        """Schedule the sequences whose grammars are there now, and end those whose grammars are none."""
        outputs = []
        for sequence, error in self._grammars.compiled():
            if error is None:
                self._scheduler.add(sequence)
            else:
                key = sequence.job
                del self._sequences[key]
                self.adapters.leave(sequence.adapter)
                finish = Finish("error", error.code, error.words, error.param)
                outputs.append(Output(key, Delta(key.job, key.attempt, sequence.num_emitted, [], {}, finish)))
        return outputs

    def _launch(self, plan: Plan) -> list[Output]:
        """Compute a plan and draw its tokens; the step before it lands meanwhile."""
        logits = computed = self._lane.run(plan)
        logits = logits.take([row for row, one in enumerate(logits.sequences) if one.params.max_tokens])
        outputs = []
        if any(one.follows_text for one in logits.sequences):  # what they may draw depends on the tokens in flight
            outputs += self._land()
            plan, logits = self._living(plan), self._living_rows(logits)
        allowed = self._grammars.allowed(logits.sequences)
        drawn = self._sampler.draw(logits.rows, logits.sequences, allowed) if logits.sequences else None
        if drawn is not None:
            self._lane.drew(logits.sequences, drawn.on_device)
        self.num_steps += 1
        for sequence in (*plan.decodes, *(guess.sequence for guess in plan.guesses)):
            self._scheduler.advance(sequence, sequence.num_computed + 1)
        for sequence, _, end in plan.prefills:
            self._scheduler.advance(sequence, end)
            if end < len(sequence.ids) and not sequence.announced:
                outputs.append(make_output(sequence, sequence.num_emitted, [], None))
        outputs += self._score(computed) + self._land()
        self._flight = Flight(logits.sequences, drawn, logits.guessed) if drawn is not None else None
        return outputs

    def _land(self) -> list[Output]:
        """Wait for the tokens of the step in flight, if there is one, and tell them."""
        if self._flight is None:
            return []
        (sequences, drawn, guessed), self._flight = self._flight, None
        outputs = self._emit_all(sequences, drawn)
        return outputs + self._confirm(guessed) if guessed else outputs

    def _confirm(self, guessed: list[Guessed]) -> list[Output]:
        """Draw on, token by token as if each had a step of its own, where the last draw was what had been guessed."""
        outputs = []
        num_right = dict.fromkeys((one.sequence for one in guessed), 0)
        right = guessed
        for place in range(self._speculation.num_drafts):
            right = [one for one in right if self._lives(one.sequence) and _was_right(one, place)]
            if not right:
                break
            sequences = [one.sequence for one in right]
            rows = torch.stack([one.rows[place] for one in right])
            drawn = self._sampler.draw(rows, sequences, self._grammars.allowed(sequences))
            for sequence in sequences:
                num_right[sequence] += 1
                self._scheduler.advance(sequence, sequence.num_computed + 1)
            outputs += self._emit_all(sequences, drawn)
        for sequence, drafts, _ in guessed:
            self._speculation.judge(sequence, len(drafts), num_right[sequence])
        return outputs

    def _emit_all(self, sequences: list[Sequence], drawn: Drawn) -> list[Output]:
        sampled = zip(sequences, drawn.read(), strict=True)
        return [self._emit(sequence, one) for sequence, one in sampled if self._lives(sequence)]

    def _lives(self, sequence: Sequence) -> bool:
        return self._sequences.get(sequence.job) is sequence

    def _living(self, plan: Plan) -> Plan:
        """What is left of a plan after another step has landed."""
        return Plan(
            [one for one in plan.decodes if self._lives(one)],
            [one for one in plan.prefills if self._lives(one.sequence)],
            [one for one in plan.guesses if self._lives(one.sequence)],
        )

    def _living_rows(self, logits: Logits) -> Logits:
        """What is left of a step's logits after another step has landed."""
        return logits.take([row for row, one in enumerate(logits.sequences) if self._lives(one)])

    def _score(self, logits: Logits) -> list[Output]:
        """Tell the logprobs of prompts, before any token that follows them, and end what was to emit nothing."""
        outputs = [make_output(one.sequence, 0, [], extra=extra) for one in logits.prompts for extra in one.extras()]
        for row, sequence in enumerate(logits.sequences):
            if sequence.params.max_tokens:
                continue
            scores = score_end(logits.rows[row], sequence.params.score_ids)
            if any(map(math.isnan, scores)):
                outputs.append(self._break(sequence))
                continue
            self._forget(sequence)
            outputs.append(make_output(sequence, 0, [], finish=Finish("length"), extra={"scores": scores}))
        return outputs

    def _break(self, sequence: Sequence) -> Output:
        """End a sequence of which the model made nothing that could be read, and what it left in blocks."""
        self._lane.scrub(self._scheduler.disown(sequence))
        self._forget(sequence)
        words = "the model gave no finite logits for this sequence"
        return make_output(sequence, sequence.num_emitted, [], finish=Finish("error", "worker_error", words))

    def _emit(self, sequence: Sequence, sampled: Sampled) -> Output:
        index = sequence.num_emitted
        if end := self._grammars.end(sequence):  # there was nothing to draw from
            self._forget(sequence)
            return make_output(sequence, index, [], None, end)
        if sampled.token == BANNED:
            self._forget(sequence)
            words = "bad words, suppressed tokens or the like leave no token to draw"
            return make_output(sequence, index, [], None, Finish("error", "invalid_value", words))
        if sampled.token == BROKEN:
            return self._break(sequence)
        self._scheduler.append(sequence, sampled.token)
        self._num_emitted += 1
        finish = self._finish(sequence) or self._grammars.accept(sequence, sampled.token)
        if finish:
            self._forget(sequence)
        return make_output(sequence, index, [sampled.token], sampled, finish)

    def _finish(self, sequence: Sequence) -> Finish | None:
        """Why a sequence that has emitted ends now, if it does."""
        if sequence.ids[-1] in sequence.params.stop_token_ids:
            return Finish("stop")
        if sequence.num_emitted >= sequence.params.max_tokens:
            return Finish("length")
        return None

    def _forget(self, sequence: Sequence) -> None:
        asked = sequence.params.processors
        if asked is not None and asked.remove_invalid_values:  # what it leaves in its blocks may be NaN
            self._lane.scrub(self._scheduler.disown(sequence))
        if not self._grammars.is_compiling(sequence):
            self._scheduler.remove(sequence)
        self._grammars.forget(sequence)
        self._sampler.forget(sequence)
        self._speculation.forget(sequence)
        self._lane.forget(sequence)
        self.adapters.leave(sequence.adapter)
        del self._sequences[sequence.job]


def _was_right(guessed: Guessed, place: int) -> bool:
    """Whether the last token is the draft at this place, so that the logits after it count."""
    return place < len(guessed.drafts) and guessed.sequence.ids[-1] == guessed.drafts[place]


def _work_of(plan: Plan) -> Work:
    """A guess counts as a decode: it is how its stream decodes."""
    return Work(len(plan.decodes) + len(plan.guesses), sum(end - start for _, start, end in plan.prefills))
