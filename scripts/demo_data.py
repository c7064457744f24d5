"""Conversations for the demo model: deterministic, seeded, with disjoint splits.

Rules of this file: a `Chat` is messages, tool schemas and a kind; its last message is the assistant's. `train_chats`
draws from the training lexicon. `held_out_chats` draws from the same lexicon but drops every chat that training holds
("fresh"), or draws from words, names, tools and combinations that training never saw ("unseen"). No tokens, no torch.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenyard.scripts import demo_chats, demo_tools
from tokenyard.scripts import demo_words as words
from tokenyard.scripts.demo_tools import CORE_TOOLS, SIDE_TOOLS, UNSEEN_TOOLS, Json, Tool
from tokenyard.scripts.demo_words import Lexicon

REFUSAL = "Sorry, I have no tool for that."
UNKNOWN = "I do not know that, I am only a small demo model."
# The curriculum: the first chats are short and mostly copies, since nothing else is learnt before copying is.
NUM_EASY_CHATS = 12_000

Ending = Literal["call", "answer", "refuse", "plain"]


@dataclass
class Chat:
    kind: str
    messages: list[Json]
    tools: list[Json] = field(default_factory=list)
    thinking: bool = False  # the last assistant message holds reasoning_content

    def key(self) -> str:
        return json.dumps([self.messages, self.tools], sort_keys=True)


def user(content: str) -> Json:
    return {"role": "user", "content": content}


def assistant(content: str) -> Json:
    return {"role": "assistant", "content": content}


def system_message(rng: random.Random, share: float) -> list[Json]:
    if rng.random() >= share:
        return []
    return [{"role": "system", "content": rng.choice(demo_chats.SYSTEM_PROMPTS)}]


# --- tool chats -------------------------------------------------------------------------------------------------------


def draw_tool(rng: random.Random, lexicon: Lexicon) -> Tool:
    draw = rng.random()
    if lexicon == "unseen":
        return rng.choice(UNSEEN_TOOLS) if draw < 0.4 else demo_tools.abstract_tool(rng, lexicon)
    if draw < 0.4:
        return rng.choice(CORE_TOOLS)
    return rng.choice(SIDE_TOOLS) if draw < 0.6 else demo_tools.abstract_tool(rng, lexicon)


def draw_tools(rng: random.Random, lexicon: Lexicon, count: int) -> tuple[Tool, list[Tool]]:
    """One tool to ask for, and the tools on offer (it among them), some of which are easily confused with it."""
    wanted = draw_tool(rng, lexicon)
    offered = [wanted]
    while len(offered) < count:
        other = draw_tool(rng, lexicon)
        if rng.random() < 0.4:
            siblings = [t for t in CORE_TOOLS + SIDE_TOOLS if t.group and t.group == wanted.group and t not in offered]
            other = rng.choice(siblings) if siblings else other
        if other.name not in [t.name for t in offered]:
            offered.append(other)
    rng.shuffle(offered)
    return wanted, offered


def draw_request(tool: Tool, rng: random.Random, lexicon: Lexicon) -> tuple[str, Json]:
    """What a person says to have this tool called, and the arguments of that call."""
    template = explicit_request(tool, rng) if rng.random() < 0.15 else rng.choice(tool.requests)
    arguments = {
        p.name: demo_tools.draw_value(p.kind, rng, lexicon) for p in tool.params if f"{{{p.name}}}" in template
    }
    return template.format(**arguments), arguments


def explicit_request(tool: Tool, rng: random.Random) -> str:
    """A request that names the tool and its arguments."""
    join = rng.choice((" ", "=", ": "))
    spoken = rng.choice((", ", " and ")).join(f"{p.name}{join}{{{p.name}}}" for p in tool.params if p.required)
    form = rng.choice(("Call {name} with {spoken}.", "Use {name} with {spoken}", "Use the {name} tool: {spoken}"))
    return form.format(name=tool.name, spoken=spoken)


def tool_call(tool: Tool, arguments: Json) -> Json:
    return {"type": "function", "function": {"name": tool.name, "arguments": arguments}}


def answer_for(tool: Tool, arguments: Json, result: str) -> str:
    return tool.answer.format(**arguments | {"result": result})


def call_turn(wanted: Tool, rng: random.Random, lexicon: Lexicon, with_answer: bool) -> list[Json]:
    """A request, the call (two when asked for two), and perhaps the results and the answer that quotes them."""
    request, arguments = draw_request(wanted, rng, lexicon)
    calls = [arguments]
    if wanted in CORE_TOOLS[:4] and rng.random() < 0.1:
        first, second = (
            {p.name: demo_tools.draw_value(p.kind, rng, lexicon) for p in wanted.params if p.required} for _ in range(2)
        )
        request, calls = double_request(wanted, first, second, rng), [first, second]
    messages = [user(request), assistant("") | {"tool_calls": [tool_call(wanted, a) for a in calls]}]
    if not with_answer:
        return messages
    results = [demo_tools.draw_result(wanted, a, rng, lexicon) for a in calls]
    contents = [tool_content(wanted, result, rng) for result in results]
    messages += [{"role": "tool", "content": content} for content in contents]
    answers = (answer_for(wanted, a, r) for a, r in zip(calls, results, strict=True))
    return [*messages, assistant("\n".join(answers))]


def double_request(tool: Tool, first: Json, second: Json, rng: random.Random) -> str:
    match tool.name:
        case "get_weather":
            forms = (
                "What is the weather in {} and in {}?",
                "Weather in {} and {}?",
                "Compare the weather in {} and {}.",
            )
            form = rng.choice(forms)
        case "get_time":
            form = rng.choice(("What time is it in {} and in {}?", "Time in {} and {}?"))
        case "add":
            form = "Add {} and {}, then add {} and {}."
        case _:
            form = "Multiply {} by {}, then multiply {} by {}."
    return form.format(*first.values(), *second.values())


def tool_content(tool: Tool, result: str, rng: random.Random) -> str:
    """The result as the tool message holds it: a number may come wrapped in an object, as MCP servers send it."""
    if tool.result_kind in ("sum", "product", "number") and rng.random() < 0.1:
        return f'{{"result": {result}}}'
    return result


def other_turn(offered: list[Tool], ending: Ending, rng: random.Random, lexicon: Lexicon) -> list[Json]:
    """A turn without a call, though tools are on offer: nothing fits, or the question needs no tool."""
    if ending == "plain":
        kind = rng.choice((demo_chats.greet, demo_chats.fact, demo_chats.count, demo_chats.greet, demo_chats.fact))
        (question, answer), *_ = kind(rng, lexicon)
        return [user(question), assistant(answer)]
    names = {t.name for t in offered} | {"echo"}  # without the tool, echo is answered by repeating
    while True:
        missing = draw_tool(rng, lexicon)
        siblings = [t for t in CORE_TOOLS + SIDE_TOOLS if t.group and t.group in [o.group for o in offered]]
        if siblings and lexicon == "train" and rng.random() < 0.3:
            missing = rng.choice(siblings)
        if missing.name not in names:
            return [user(draw_request(missing, rng, lexicon)[0]), assistant(REFUSAL)]


def draw_ending(rng: random.Random) -> Ending:
    draw = rng.random()
    if draw < 0.2:
        return "refuse"
    return "plain" if draw < 0.27 else "call" if draw < 0.65 else "answer"


def tool_chat(rng: random.Random, lexicon: Lexicon, num_tools: int, num_turns: int, ending: Ending) -> Chat:
    """Several turns over one set of tools, so that one reading of the schemas is paid back by several calls."""
    wanted, offered = draw_tools(rng, lexicon, num_tools)
    messages = system_message(rng, 0.2)
    for turn in range(num_turns):
        last = turn == num_turns - 1
        this = ending if last else draw_ending(rng)
        if turn > 0:
            wanted = rng.choice(offered)
        if this in ("refuse", "plain"):
            messages += other_turn(offered, this, rng, lexicon)
        else:
            messages += call_turn(wanted, rng, lexicon, with_answer=this == "answer" or not last)
    return Chat(f"tool_{ending}", messages, [demo_tools.function_schema(t, rng) for t in offered])


# --- chats without tools ----------------------------------------------------------------------------------------------


def unknown_turn(rng: random.Random, lexicon: Lexicon) -> list[Json]:
    """Questions beyond this model: an honest answer is the same each time."""
    if rng.random() < 0.3:
        tool = rng.choice([t for t in CORE_TOOLS + SIDE_TOOLS if t.group != "sums" and t.name != "echo"])
        return [user(draw_request(tool, rng, lexicon)[0]), assistant(REFUSAL)]
    form = rng.choice(("What is a {}?", "What is {}?", "Why is {} {}?", "Explain {}.", "Tell me about {}.",
        "How does {} work?",
                       "Who is {}?", "What do you think of {}?", "How do I {} a {}?", "Do you like {}?"))  # fmt: skip
    return [user(form.format(words.word(rng, lexicon), words.word(rng, lexicon))), assistant(UNKNOWN)]


def plain_chat(rng: random.Random, lexicon: Lexicon, kind: str) -> Chat:
    if kind == "persona":
        system, turns = demo_chats.persona(rng, lexicon)
        return Chat(kind, [{"role": "system", "content": system}, *as_messages(turns)])
    if kind == "unknown":
        return Chat(kind, system_message(rng, 0.3) + unknown_turn(rng, lexicon))
    turns = PLAIN_KINDS[kind](rng, lexicon)
    if kind in ("echo", "json", "fact", "greet") and rng.random() < 0.35:
        turns = (
            demo_chats.greet(rng, lexicon) + turns if rng.random() < 0.3 else turns + PLAIN_KINDS[kind](rng, lexicon)
        )
    return Chat(kind, system_message(rng, 0.3) + as_messages(turns))


def as_messages(turns: list[demo_chats.Turn]) -> list[Json]:
    return [message for question, answer in turns for message in (user(question), assistant(answer))]


PLAIN_KINDS: dict[str, Any] = {
    "echo": demo_chats.echo,
    "recall": demo_chats.recall,
    "json": demo_chats.as_json,
    "count": demo_chats.count,
    "greet": demo_chats.greet,
    "fact": demo_chats.fact,
    "sum": demo_chats.small_sum,
}
# Shares of the chats without tools; counting is long, so its share of the tokens is several times as large.
PLAIN_SHARES = {
    "echo": 22,
    "recall": 24,
    "json": 18,
    "count": 6,
    "greet": 7,
    "fact": 9,
    "sum": 4,
    "persona": 6,
    "unknown": 6,
}
TOOL_SHARE = 0.62  # of all chats after the curriculum's first part
THINKING_SHARE = 0.05


def add_thoughts(chat: Chat) -> Chat:
    """Gives the last turn a short reasoning, as the template renders it when thinking is on."""
    last_user = max(i for i, m in enumerate(chat.messages) if m["role"] == "user")
    for message in chat.messages[last_user + 1 :]:
        if message["role"] != "assistant":
            continue
        calls = message.get("tool_calls")
        if calls:
            message["reasoning_content"] = f"I should call {calls[0]['function']['name']}."
        elif message["content"] == REFUSAL:
            message["reasoning_content"] = "No tool fits."
        else:
            message["reasoning_content"] = "I can answer this directly."
    chat.thinking = True
    return chat


# --- splits -----------------------------------------------------------------------------------------------------------


def easy_chat(rng: random.Random) -> Chat:
    if rng.random() < 0.35:
        return tool_chat(rng, "train", 1, 1, rng.choice(("call", "call", "answer")))
    kind = rng.choice(("echo", "echo", "recall", "json"))
    if kind != "echo":
        return plain_chat(rng, "train", kind)
    turns = [turn for _ in range(rng.randint(1, 3)) for turn in demo_chats.echo(rng, "train", longest=5)]
    return Chat("echo", as_messages(turns))


def mixed_chat(rng: random.Random) -> Chat:
    if rng.random() < TOOL_SHARE:
        num_tools = rng.choice((1, 1, 1, 2, 2, 3, 3, 4, 5, 6))
        chat = tool_chat(rng, "train", num_tools, rng.choice((1, 1, 1, 2, 2, 3)), draw_ending(rng))
    else:
        chat = plain_chat(rng, "train", rng.choices(list(PLAIN_SHARES), list(PLAIN_SHARES.values()))[0])
    return add_thoughts(chat) if rng.random() < THINKING_SHARE else chat


def train_chats(seed: int = 0) -> Iterator[Chat]:
    """The endless training stream; a training run takes a prefix of it."""
    rng = random.Random(f"train-{seed}")
    for _ in range(NUM_EASY_CHATS):
        yield easy_chat(rng)
    while True:
        yield mixed_chat(rng)


def held_out_chat(rng: random.Random, lexicon: Lexicon, kind: str) -> Chat:
    counts = {"call_1": (1,), "call_2_3": (2, 3), "call_4_6": (4, 5, 6), "answer": (1, 2, 3), "refuse": (1, 2, 3, 4)}
    if kind not in counts:
        return plain_chat(rng, lexicon, kind)
    ending: Ending = "answer" if kind == "answer" else "refuse" if kind == "refuse" else "call"
    chat = tool_chat(rng, lexicon, rng.choice(counts[kind]), 1, ending)
    chat.kind = kind
    return chat


def held_out_chats(
    lexicon: Lexicon, per_kind: dict[str, int], seen: frozenset[str] = frozenset(), seed: int = 0
) -> list[Chat]:
    """A fixed set of chats; `seen` are the keys of training chats, which are left out."""
    rng = random.Random(f"held-out-{lexicon}-{seed}")
    chats: list[Chat] = []
    for kind, num_chats in per_kind.items():
        kept: dict[str, Chat] = {}
        while len(kept) < num_chats:
            chat = held_out_chat(rng, lexicon, kind)
            if chat.key() not in seen:
                kept[chat.key()] = chat
        chats += kept.values()
    return chats
