"""Evaluates a demo model: greedy answers to held-out chats, through its chat template and `generate`.

    python -m tokenyard.scripts.eval_demo [--model DIR]

Rules of this file: an answer counts when it is exactly the expected one, in meaning for calls (name and arguments), in
text otherwise. "Fresh" chats are drawn like training's but are not among them; "unseen" ones use words, names, tools
and combinations that training cannot contain.
"""

import argparse
import itertools
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokenyard.scripts import demo_data
from tokenyard.scripts.demo_data import REFUSAL, Chat
from tokenyard.scripts.demo_tools import Json
from tokenyard.scripts.train_demo import MODEL_DIR

FRESH_CHATS = {
    "call_1": 50, "call_2_3": 50, "call_4_6": 50, "answer": 40, "refuse": 40, "recall": 40, "echo": 20, "json": 20,
    "persona": 20,
}  # fmt: skip
UNSEEN_CHATS = {
    "call_1": 40, "call_2_3": 30, "call_4_6": 20, "answer": 20, "refuse": 20, "recall": 20, "echo": 20, "json": 10,
    "count": 20, "fact": 20, "sum": 10, "persona": 10, "unknown": 10,
}  # fmt: skip
# A prefix of the training stream that covers the shipped run: fresh chats must not be among these.
NUM_TRAIN_CHATS = 120_000
BATCH_CHATS = 16
# How many tokens an answer may exceed the expected one before it counts as not ending.
SLACK_TOKENS = 24
CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)
CALL_KINDS = ("call_1", "call_2_3", "call_4_6")
TEXT_KINDS = ("echo", "json", "count", "fact", "sum", "persona", "unknown")


@dataclass
class Outcome:
    chat: Chat
    split: str
    text: str
    ended: bool

    @property
    def exact(self) -> bool:
        expected = self.chat.messages[-1]
        if "tool_calls" not in expected:
            return bool(self.text == expected["content"])
        return parse_calls(self.text) == [call["function"] for call in expected["tool_calls"]]

    @property
    def valid_call(self) -> bool:
        """At least one call, and every call names a tool on offer with arguments its schema knows."""
        calls = parse_calls(self.text)
        return calls is not None and len(calls) > 0 and all(fits_schema(call, self.chat.tools) for call in calls)


def parse_calls(text: str) -> list[Any] | None:
    """The calls of an answer that consists of calls alone; None when it does not, or when one is not JSON."""
    if CALL.sub("", text).strip():
        return None
    try:
        return [json.loads(body) for body in CALL.findall(text)]
    except json.JSONDecodeError:
        return None


def fits_schema(call: Any, tools: list[Json]) -> bool:
    if not (isinstance(call, dict) and set(call) == {"name", "arguments"} and isinstance(call["arguments"], dict)):
        return False
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    schema = schemas.get(call["name"])
    if schema is None:
        return False
    given = set(call["arguments"])
    return set(schema["required"]) <= given <= set(schema["properties"])


class Answerer:
    """A model directory that answers batches of chats greedily."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory, padding_side="left")
        self.model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)

    def prompt(self, chat: Chat) -> str:
        text = self.tokenizer.apply_chat_template(
            chat.messages[:-1],
            tools=chat.tools or None,
            add_generation_prompt=True,
            tokenize=False,
            **({"enable_thinking": True} if chat.thinking else {}),
        )
        return str(text)

    def answer(self, prompts: list[str], max_new_tokens: int) -> list[tuple[str, bool]]:
        """For each prompt the text, and whether it ended of itself."""
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        batch.pop("token_type_ids", None)
        output = self.model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        end = self.tokenizer.eos_token_id
        rows = output[:, batch["input_ids"].shape[1] :].tolist()
        return [(self.tokenizer.decode(row, skip_special_tokens=True), end in row) for row in rows]


def evaluate(answerer: Answerer, chats: list[tuple[str, Chat]]) -> list[Outcome]:
    """Batches of similar expected length, so that no short answer waits for a long one."""
    rows = []
    for split, chat in chats:
        expected = chat.messages[-1]
        text = expected["content"] + "".join(json.dumps(call) for call in expected.get("tool_calls", []))
        rows.append((len(answerer.tokenizer.tokenize(text)), split, chat))
    rows.sort(key=lambda row: row[0])
    outcomes = []
    for batch in chunks(rows, BATCH_CHATS):
        answers = answerer.answer([answerer.prompt(chat) for _, _, chat in batch], batch[-1][0] + SLACK_TOKENS)
        outcomes += [Outcome(chat, split, *answer) for (_, split, chat), answer in zip(batch, answers, strict=True)]
    return outcomes


def chunks(rows: list[Any], size: int) -> list[list[Any]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def held_out(num_train_chats: int) -> list[tuple[str, Chat]]:
    seen = frozenset(chat.key() for chat in itertools.islice(demo_data.train_chats(), num_train_chats))
    fresh = demo_data.held_out_chats("train", FRESH_CHATS, seen)
    unseen = demo_data.held_out_chats("unseen", UNSEEN_CHATS)
    return [("fresh", chat) for chat in fresh] + [("unseen", chat) for chat in unseen]


Test = Callable[[Outcome], bool]


def table(outcomes: list[Outcome]) -> list[tuple[str, int, int]]:
    """(figure, hits, of how many), in the order of docs/demo-model.md."""

    def row(title: str, splits: str, kinds: tuple[str, ...], test: Test = lambda o: o.exact) -> tuple[str, int, int]:
        chosen = [o for o in outcomes if o.split in splits.split() and o.chat.kind in kinds]
        return title, sum(test(o) for o in chosen), len(chosen)

    both = "fresh unseen"
    return [
        row("tool calls are JSON, fresh", "fresh", CALL_KINDS, lambda o: bool(parse_calls(o.text))),
        row("tool calls are JSON, unseen", "unseen", CALL_KINDS, lambda o: bool(parse_calls(o.text))),
        row("tool calls fit a schema on offer, fresh", "fresh", CALL_KINDS, lambda o: o.valid_call),
        row("tool calls fit a schema on offer, unseen", "unseen", CALL_KINDS, lambda o: o.valid_call),
        row("whole call exact, 1 tool in the prompt", "fresh", ("call_1",)),
        row("whole call exact, 2-3 tools", "fresh", ("call_2_3",)),
        row("whole call exact, 4-6 tools", "fresh", ("call_4_6",)),
        row("whole call exact, unseen tools and words, 1 tool", "unseen", ("call_1",)),
        row("whole call exact, unseen tools and words, 2-6 tools", "unseen", ("call_2_3", "call_4_6")),
        row("refused though a tool fits", both, CALL_KINDS, lambda o: o.text == REFUSAL),
        row("answer after a tool result, exact", both, ("answer",)),
        row("replies without tools, exact", both, TEXT_KINDS),
        *(row(f"  {kind}", both, (kind,)) for kind in TEXT_KINDS),
        row("recall of a stated fact", both, ("recall",)),
        row("ends properly", both, (*CALL_KINDS, *TEXT_KINDS, "answer", "refuse", "recall"), lambda o: o.ended),
        row("refuses when no tool fits, fresh", "fresh", ("refuse",)),
        row("refuses when no tool fits, unseen", "unseen", ("refuse",)),
    ]


def describe_misses(outcomes: list[Outcome], per_kind: int) -> list[str]:
    """The first wrong answers of each kind, for a person to read."""
    lines = []
    for kind in sorted({o.chat.kind for o in outcomes}):
        for outcome in [o for o in outcomes if o.chat.kind == kind and not o.exact][:per_kind]:
            expected = outcome.chat.messages[-1]
            calls = [call["function"] for call in expected.get("tool_calls", [])]
            lines.append(f"{kind} {outcome.split}: {outcome.chat.messages[-2]['content']!r}")
            lines.append(f"    expected {calls or expected['content']!r}")
            lines.append(f"    answered {outcome.text!r}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a demo model on held-out chats.")
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--misses", type=int, default=0, help="print so many wrong answers of each kind")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.monotonic()
    outcomes = evaluate(Answerer(args.model), held_out(NUM_TRAIN_CHATS))
    lines = [f"| {title} | {100 * hits / total:.1f} % | {hits}/{total} |" for title, hits, total in table(outcomes)]
    lines.append(f"{len(outcomes)} chats in {time.monotonic() - started:.0f} s")
    print("\n".join(lines + describe_misses(outcomes, args.misses)))  # noqa: T201


if __name__ == "__main__":
    main()
