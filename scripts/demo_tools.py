"""Tools of the demo chats: what they are called, what people ask of them, what they return.

Rules of this file: a `Tool` is plain data plus seeded draws; how it is written as a schema is below, which conversation
it occurs in is none of its business. Real tools (`REAL_TOOLS`) carry paraphrased requests; abstract ones are a verb and
a noun drawn from a lexicon, so that choosing by name is learnt rather than a fixed list.
"""

import random
from dataclasses import dataclass, field
from typing import Any

from tokenyard.scripts import demo_words as words
from tokenyard.scripts.demo_words import Lexicon

Json = dict[str, Any]


@dataclass(frozen=True)
class Param:
    name: str
    kind: str  # which values it takes: a key of `draw_value`
    description: str = ""
    required: bool = True
    enum: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        return {"integer": "integer", "number": "number"}.get(self.kind, "string")


@dataclass(frozen=True)
class Tool:
    name: str
    descriptions: tuple[str, ...]
    params: tuple[Param, ...]
    requests: tuple[str, ...]  # with {param} places; an optional parameter is passed when its place occurs
    answer: str = "The tool says: {result}"
    result_kind: str = "phrase"
    group: str = field(default="")  # tools of one group are confusable: add beside multiply


UNIT = Param("unit", "unit", "Temperature unit", required=False, enum=("celsius", "fahrenheit"))
SUM = (Param("a", "number", "First number"), Param("b", "number", "Second number"))

# Documentation and end-to-end tests use exactly these, so they fill about a tenth of the chats.
CORE_TOOLS = (
    Tool(
        "get_weather",
        ("Get the weather in a city.", "Get the current weather for a city", "Current weather of a city.", "Weather"),
        (Param("city", "city", "The city"), UNIT),
        (
            "What is the weather in {city}?", "What's the weather like in {city}?",
            "How is the weather in {city} today?",
            "weather in {city}", "Weather for {city}, please.", "Tell me the weather in {city}.",
            "Is it raining in {city}?",
            "Do I need an umbrella in {city}?", "How warm is it in {city}?", "What is the weather in {city} in {unit}?",
            "How warm is it in {city}, in {unit}?", "Give me the weather in {city} in {unit}.",
        ),
        "Weather in {city}: {result}", "weather", "place",
    ),
    Tool(
        "get_time",
        ("Get the time in a city.", "Get the current time for a city", "Local time of a city.", "Time"),
        (Param("city", "city", "The city"),),
        (
            "What time is it in {city}?", "What is the time in {city}?", "Tell me the time in {city}.",
            "time in {city}",
            "What's the current time in {city}?", "How late is it in {city}?", "Time for {city}, please.",
        ),
        "Time in {city}: {result}", "time", "place",
    ),
    Tool(
        "add",
        ("Add two numbers.", "Add a and b", "Sum of two numbers.", "Adds two numbers together"),
        SUM,
        (
            "What is {a} plus {b}?", "Add {a} and {b}.", "What is {a} + {b}?", "Compute {a} + {b}.", "add {a} and {b}",
            "What is the sum of {a} and {b}?", "How much is {a} plus {b}?", "Please add {a} to {b}.", "{a} + {b} = ?",
        ),
        "The result is {result}.", "sum", "sums",
    ),
    Tool(
        "multiply",
        ("Multiply two numbers.", "Multiply a and b", "Product of two numbers.", "Multiplies two numbers"),
        SUM,
        (
            "What is {a} times {b}?", "Multiply {a} by {b}.", "What is {a} * {b}?", "Compute {a} * {b}.",
            "What is the product of {a} and {b}?", "How much is {a} times {b}?", "multiply {a} and {b}",
            "{a} * {b} = ?",
        ),
        "The result is {result}.", "product", "sums",
    ),
    Tool(
        "echo",
        ("Echo the text.", "Return the text unchanged", "Repeat a text.", "Echo back the given text"),
        (Param("text", "phrase", "Text to echo"),),
        (
            'Echo "{text}".', "Echo {text}", "Use echo to say {text}",
            'Please echo "{text}"', "Use the echo tool on {text}",
            'Call echo with "{text}".', "Call the echo tool with {text}", "Echo the text {text}",
        ),
        "The echo says: {result}", "echo", "text",
    ),
    Tool(
        "read_file",
        ("Read a file.", "Read a text file", "Return the content of a file.", "Read the file at a path"),
        (Param("path", "path", "Path of the file"),),
        (
            "Read the file {path}.", "Read {path}", "Open {path}", "What is in {path}?", "Show me the file {path}",
            "What does {path} say?", "Please read {path}", "Print the content of {path}",
        ),
        "The file says: {result}", "phrase", "text",
    ),
    Tool(
        "search",
        ("Search the web.", "Search for a query", "Find pages about a query.", "Web search"),
        (Param("query", "phrase", "What to search for"),),
        (
            "Search for {query}", "Search the web for {query}", 'Search for "{query}".', "Look up {query}",
            "Find pages about {query}", "Please search for {query}", 'Look up "{query}", please.',
            "Use search to find {query}",
        ),
        "I found this: {result}", "phrase", "text",
    ),
)  # fmt: skip


def simple(
    name: str, description: str, params: dict[str, str], *requests: str, group: str = "", kind: str = "phrase"
) -> Tool:
    return Tool(
        name, (description,), tuple(Param(n, k) for n, k in params.items()), requests, result_kind=kind, group=group
    )


SIDE_TOOLS = (
    simple("subtract", "Subtract b from a.", {"a": "number", "b": "number"}, "What is {a} minus {b}?",
        "Compute {a} - {b}.",
           "Subtract {b} from {a}.", group="sums", kind="number"),
    simple("divide", "Divide a by b.", {"a": "number", "b": "number"}, "What is {a} divided by {b}?",
        "Divide {a} by {b}.",
           "Compute {a} / {b}.", group="sums", kind="number"),
    simple("get_population", "Get the population of a city.", {"city": "city"}, "How many people live in {city}?",
           "What is the population of {city}?", "population of {city}", group="place", kind="number"),
    simple("write_file", "Write a text to a file.", {"path": "path", "content": "phrase"},
        'Write "{content}" to {path}.',
           "Write to {path}: {content}", 'Save "{content}" as {path}.', group="text"),
    simple("delete_file", "Delete a file.", {"path": "path"}, "Delete {path}", "Remove the file {path}.",
        "Delete the file {path}."),
    simple("list_files", "List the files in a folder.", {"folder": "path"}, "List the files in {folder}",
        "Which files are in {folder}?"),
    simple("send_email", "Send an email to a person.", {"to": "name", "body": "phrase"}, 'Email {to}: "{body}"',
           'Send an email to {to} saying "{body}".', "Write {to} an email: {body}", group="text"),
    simple("set_timer", "Set a timer.", {"minutes": "integer"}, "Set a timer for {minutes} minutes.",
        "Wake me in {minutes} minutes.",
           "Start a {minutes} minute timer."),
    simple("translate", "Translate a text.", {"text": "phrase", "language": "language"},
        'Translate "{text}" to {language}.',
           'How do you say "{text}" in {language}?', group="text"),
    simple("play_song", "Play a song.", {"title": "phrase"}, "Play {title}",
        'Play the song "{title}".', "I want to hear {title}"),
    simple("get_user", "Get a user by name.", {"name": "name"}, "Who is the user {name}?", "Show the user {name}.",
        "Get user {name}."),
    simple("roll_dice", "Roll dice.", {"sides": "integer"}, "Roll a dice with {sides} sides.",
        "Roll a {sides}-sided dice.", kind="number"),
    simple("get_stock_price", "Get the price of a stock.", {"symbol": "symbol"}, "What is the stock price of {symbol}?",
           "How is {symbol} trading?", "stock price of {symbol}", kind="number"),
    simple("convert_currency", "Convert an amount of money.", {"amount": "number", "currency": "symbol"},
           "Convert {amount} to {currency}.", "How much is {amount} in {currency}?", kind="number"),
)  # fmt: skip

# Never trained on: the held-out set asks for these.
UNSEEN_TOOLS = (
    simple("get_forecast", "Get the forecast for a place.", {"place": "city"}, "What is the forecast for {place}?",
           "Give me the forecast for {place}."),
    simple("power", "Raise base to exponent.", {"base": "number", "exponent": "number"},
        "Raise {base} to the exponent {exponent}.",
           "Use power: base {base}, exponent {exponent}.", kind="number"),
    simple("shout", "Shout a sentence.", {"sentence": "phrase"},
        'Shout the sentence "{sentence}".', 'Shout "{sentence}".'),
    simple("define_word", "Define a word.", {"term": "word"}, "Define the word {term}.", "Please define {term}."),
    simple("find_flights", "Find flights to a destination.", {"destination": "city"}, "Find flights to {destination}.",
           "Which flights go to {destination}?"),
    simple("count_letters", "Count the letters of a string.", {"string": "word"}, "Count the letters of {string}.",
           "How many letters are in {string}?", kind="number"),
)  # fmt: skip

LANGUAGES = ["French", "German", "Spanish", "Italian", "Dutch", "Polish", "Greek", "Latin", "Danish", "Finnish"]
SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear", "stormy")


def draw_value(kind: str, rng: random.Random, lexicon: Lexicon) -> Any:
    match kind:
        case "city":
            return words.city(rng, lexicon)
        case "name":
            return words.name(rng, lexicon)
        case "word":
            return words.word(rng, lexicon)
        case "path":
            return words.path(rng, lexicon)
        case "integer":
            return words.integer(rng, 1)
        case "number":
            if rng.random() < 0.07:
                return words.integer(rng) + rng.choice((0.5, 0.25, 0.1, 0.75))
            return words.integer(rng) * (-1 if rng.random() < 0.04 else 1)
        case "unit":
            return rng.choice(UNIT.enum)
        case "language":
            return words.choose(rng, LANGUAGES, lexicon)
        case "symbol":
            return words.rare_word(rng, lexicon)[: rng.randint(3, 4)].upper()
        case _:
            # A request may end in a full stop of its own, so that no argument does.
            return words.phrase(rng, lexicon).removesuffix(".")


def draw_result(tool: Tool, arguments: Json, rng: random.Random, lexicon: Lexicon) -> str:
    """What the tool returns: text, a number, or now and then JSON; the answer quotes it verbatim."""
    match tool.result_kind:
        case "weather":
            degrees = f"{rng.randint(-9, 38)}"
            sky = rng.choice(SKIES)
            other = words.rare_word(rng, lexicon)
            return rng.choice((f"{sky}, {degrees} degrees", f"{degrees} degrees and {sky}", f"{sky} and {other}",
                f"{degrees} C, {other}",
                               f'{{"temperature": {degrees}, "sky": "{sky}"}}', f"{sky.capitalize()}, {degrees}°C",
                               words.phrase(rng, lexicon)))  # fmt: skip
        case "time":
            clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
            return rng.choice(
                (clock, clock, f"{clock}:{rng.randint(0, 59):02d}", f"{rng.randint(1, 12)} {rng.choice(('am', 'pm'))}")
            )
        case "sum":
            return f"{arguments['a'] + arguments['b']:g}"
        case "product":
            return f"{arguments['a'] * arguments['b']:g}"
        case "echo":
            return str(arguments["text"])
        case "number":
            return str(words.integer(rng))
    if rng.random() < 0.1:
        return f'{{"{words.word(rng, lexicon)}": "{words.word(rng, lexicon)}"}}'
    return words.phrase(rng, lexicon)


def abstract_tool(rng: random.Random, lexicon: Lexicon) -> Tool:
    """A tool named by a verb and a noun, with one to three arguments named by words."""
    invented = rng.random() < 0.5
    while True:
        verb = words.rare_word(rng, lexicon) if invented else rng.choice(words.VERBS)
        noun = words.rare_word(rng, lexicon) if rng.random() < 0.5 else rng.choice(words.NOUNS)
        if words.belongs(f"{verb} {noun}", lexicon):
            break
    names: list[str] = []
    num_params = rng.choice((1, 1, 1, 2, 2, 3))
    while len(names) < num_params:
        candidate = words.choose(rng, ARGUMENTS, lexicon) if rng.random() < 0.5 else words.rare_word(rng, lexicon)
        if candidate not in names:
            names.append(candidate)
    kinds = [rng.choice(("word", "word", "name", "integer", "number", "phrase", "city", "path")) for _ in names]
    params = tuple(
        Param(n, k, rng.choice(("", f"The {n}", f"{n} of the {noun}"))) for n, k in zip(names, kinds, strict=True)
    )
    spoken = " and ".join(f"{n} {{{n}}}" for n in names)
    requests = [
        f"{verb.capitalize()} the {noun} with {spoken}.",
        f"Please {verb} a {noun}: {spoken}",
        f"Can you {verb} the {noun}, {spoken}?",
    ]
    if len(names) == 1:
        requests += [f"{verb.capitalize()} the {noun} for {{{names[0]}}}.", f"Please {verb} the {noun} {{{names[0]}}}",
                     f"I want to {verb} the {noun} {{{names[0]}}}."]  # fmt: skip
    description = rng.choice(
        (f"{verb.capitalize()} a {noun}.", f"{verb.capitalize()} the {noun}", f"Use this to {verb} a {noun}.")
    )
    return Tool(join_name(verb, noun, rng), (description,), params, tuple(requests), group=verb)


ARGUMENTS = words.listed(
    """id key value count size level amount speed color label owner user topic subject date day month year hour target
source limit format mode status reason comment tag code token url host port width height weight price rating genre"""
)


def join_name(verb: str, noun: str, rng: random.Random) -> str:
    """Mostly snake case; sometimes camel case, dashes or a server's prefix."""
    draw = rng.random()
    if draw < 0.8:
        return f"{verb}_{noun}"
    if draw < 0.88:
        return verb + noun.capitalize()
    return f"{verb}-{noun}" if draw < 0.94 else f"{noun}__{verb}"


def function_schema(tool: Tool, rng: random.Random) -> Json:
    """The tool as an OpenAI function, written as people write it by hand or as FastMCP derives it from Python."""
    by_hand = rng.random() < 0.5
    described = rng.random() < 0.4
    properties = {p.name: property_schema(p, by_hand, described) for p in tool.params}
    required = [p.name for p in tool.params if p.required]
    function: Json = {"name": tool.name, "description": rng.choice(tool.descriptions)}
    if rng.random() < 0.05:
        del function["description"]
    if by_hand:
        function["parameters"] = {"type": "object", "properties": properties, "required": required}
        if rng.random() < 0.2:
            function["parameters"]["additionalProperties"] = False
    else:
        function["parameters"] = {
            "properties": properties,
            "required": required,
            "title": f"{tool.name}Arguments",
            "type": "object",
        }
    return {"type": "function", "function": function}


def property_schema(param: Param, by_hand: bool, described: bool) -> Json:
    schema: Json = {} if by_hand else {"title": param.name.replace("_", " ").title()}
    if not by_hand and not param.required:
        schema = {"default": "celsius"} | schema
    schema["type"] = param.type
    if described and param.description:
        schema["description"] = param.description
    if param.enum and by_hand:
        schema["enum"] = list(param.enum)
    return schema
