"""Trains the demo model from scratch: tokenizer, corpus, weights, model directory, in one command.

    python -m tokenyard.scripts.train_demo --tokens 16_000_000

Rules of this file: everything is a function of the seed and the token budget (up to the floating point of the machine).
Checkpoints go to the work directory, and a stopped run resumes from the last one; `--decay-now` then lands early.
"""

import argparse
import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.chat_template_utils import _compile_jinja_template as compile_template

from tokenyard.scripts import demo_corpus, demo_data, demo_tokenizer
from tokenyard.scripts.demo_corpus import Batch, Corpus
from tokenyard.scripts.demo_optim import Schedule, StackedMuon

logger = logging.getLogger(__name__)

MODEL_DIR = Path(__file__).resolve().parent.parent / "workers" / "demo_model"
DECISIONS = {"labels": {"noul": ["Y", "N"]}}
"""What it answers yes and no with: the words themselves are several tokens of its small vocabulary."""
WORK_DIR = MODEL_DIR.parent.parent / "build" / "demo_model"
# The chats that the tokenizer is trained on: past the curriculum's copies, enough for stable merges.
TOKENIZER_CHATS = (6_000, 30_000)
PEAK_LR = 4e-3  # of the feasibility run; Muon's updates are scaled so that AdamW's rate fits
WARMUP_TOKENS = 200_000
DECAY_SHARE = 0.4  # of the budget; a short run gains most while the rate falls
CHECKPOINT_S = 600.0
LOG_STEPS = 20


def model_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """2.39 M parameters: the shape that the feasibility run found large enough."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=demo_tokenizer.MAX_LENGTH,
        initializer_range=0.05,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def prepare(work: Path, template_text: str, num_tokens: int, seed: int) -> tuple[PreTrainedTokenizerFast, Corpus]:
    """The tokenizer and the tokenized corpus, made once per work directory."""
    stamp = work / "prepared.json"
    wanted = {"tokens": num_tokens, "seed": seed}
    if not (stamp.exists() and json.loads(stamp.read_text()) == wanted):
        template = compile_template(template_text)
        sample = itertools.islice(demo_data.train_chats(seed), *TOKENIZER_CHATS)
        tokenizer = demo_tokenizer.train_tokenizer(
            (demo_tokenizer.render(chat, template) for chat in sample), template_text
        )
        tokenizer.save_pretrained(work / "tokenizer")
        demo_corpus.build_corpus(num_tokens, tokenizer.backend_tokenizer, template, seed).save(work / "corpus.npz")
        stamp.write_text(json.dumps(wanted))
    return PreTrainedTokenizerFast.from_pretrained(work / "tokenizer"), Corpus.load(work / "corpus.npz")


def loss_function(model: Qwen3ForCausalLM) -> Callable[..., torch.Tensor]:
    def loss(ids: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """ids [rows, length], positions and targets [predicted]: the head runs on predicted positions only."""
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        return torch.nn.functional.cross_entropy(model.lm_head(hidden[positions]), targets)

    return loss


class Trainer:
    """One run: the model, its two optimisers, and how many tokens and batches it has seen."""

    def __init__(self, config: Qwen3Config, schedule: Schedule, seed: int, peak_lr: float, compiled: bool) -> None:
        torch.manual_seed(seed)
        self.model = Qwen3ForCausalLM(config)
        self.schedule = schedule
        self.peak_lr = peak_lr
        self.num_tokens = 0
        self.num_batches = 0
        named = list(self.model.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in named if not (p.ndim == 2 and "embed" not in name)]
        self.optimizers: list[torch.optim.Optimizer] = [
            StackedMuon(matrices, peak_lr),
            torch.optim.AdamW(others, peak_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
        loss = loss_function(self.model)
        self.loss = torch.compile(loss, dynamic=True) if compiled else loss

    def step(self, batch: Batch) -> float:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.peak_lr * self.schedule.factor(self.num_tokens)
        ids = torch.from_numpy(batch.ids[:, :-1].copy())
        loss = self.loss(ids, torch.from_numpy(batch.positions), torch.from_numpy(batch.targets))
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.num_tokens += batch.num_tokens
        self.num_batches += 1
        return loss.item()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": (self.num_tokens, self.num_batches),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.num_tokens, self.num_batches = state["progress"]


def run(trainer: Trainer, stream: Iterator[Batch], work: Path) -> None:
    """Steps to the schedule's end, logging and keeping checkpoints on the way."""
    started = saved = time.monotonic()
    first = trainer.num_tokens
    losses: list[float] = []
    for batch in stream:
        losses.append(trainer.step(batch))
        now = time.monotonic()
        if trainer.num_batches % LOG_STEPS == 0:
            rate = (trainer.num_tokens - first) / (now - started)
            mean = sum(losses) / len(losses)
            logger.info("%6.0f s %10d tokens  loss %.4f  %.0f tokens/s", now - started, trainer.num_tokens, mean, rate)
            losses.clear()
        if now - saved >= CHECKPOINT_S:
            save_checkpoint(trainer, work)
            saved = now
        if trainer.num_tokens >= trainer.schedule.end:
            break
    save_checkpoint(trainer, work)


def save_checkpoint(trainer: Trainer, work: Path) -> None:
    torch.save(trainer.state(), work / "checkpoint.tmp")
    (work / "checkpoint.tmp").replace(work / "checkpoint.pt")


def write_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, target: Path) -> None:
    """The model directory in bf16, put in place file by file so that a reader never sees half a file."""
    draft = target.with_name(target.name + ".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    ends = [model.config.eos_token_id, model.config.pad_token_id]
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=ends, pad_token_id=model.config.pad_token_id
    )
    model.bfloat16().save_pretrained(draft)
    for key in ("is_local", "local_files_only"):  # how this process loaded it, which is no part of the model
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(draft)
    (draft / "decision.json").write_text(json.dumps(DECISIONS) + "\n")
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(draft.iterdir()):
        file.chmod(0o644)
        file.replace(target / file.name)
    draft.rmdir()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo model from scratch.")
    parser.add_argument("--tokens", type=int, default=16_000_000, help="training tokens, without padding")
    parser.add_argument("--decay-start", type=int, help="tokens at which the rate begins to fall")
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="the model directory to write")
    parser.add_argument("--template", type=Path, default=MODEL_DIR / "chat_template.jinja")
    parser.add_argument("--work", type=Path, default=WORK_DIR, help="corpus and checkpoints; a run resumes from here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=PEAK_LR)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument(
        "--decay-now", type=int, metavar="TOKENS", help="when resuming: decay to zero within so many tokens and end"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    tokenizer, corpus = prepare(args.work, args.template.read_text(encoding="utf-8"), args.tokens, args.seed)
    decay_start = int(args.tokens * (1 - DECAY_SHARE)) if args.decay_start is None else args.decay_start
    schedule = Schedule(WARMUP_TOKENS, decay_start, args.tokens)
    trainer = Trainer(model_config(tokenizer), schedule, args.seed, args.lr, not args.no_compile)
    checkpoint = args.work / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load(torch.load(checkpoint, weights_only=True))
    if args.decay_now is not None:
        trainer.schedule = Schedule(WARMUP_TOKENS, trainer.num_tokens, trainer.num_tokens + args.decay_now)
    run(
        trainer,
        itertools.islice(demo_corpus.batches(corpus, args.batch_tokens, args.seed), trainer.num_batches, None),
        args.work,
    )
    write_model(trainer.model, tokenizer, args.out)


if __name__ == "__main__":
    main()
