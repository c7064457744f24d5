"""Demo chats without tools: greetings, facts, counting, recall, echo, JSON.

Rules of this file: each kind is one function that draws a list of turns `(user, assistant)` from a seeded generator;
answers are functions of the conversation alone, so that an exact match is a fair test. No tools, no tokens.
"""

import json
import random

from tokenyard.scripts import demo_words as words
from tokenyard.scripts.demo_words import Lexicon

Turn = tuple[str, str]

GREETINGS = (
    (("Hello!", "Hello", "hello", "Hi", "Hi!", "hi there", "Hey", "Hello there!", "Good morning!", "Say hello.",
    "Say hi"),
     "Hello! How can I help you?"),
    (("How are you?", "How are you today?", "how are you", "How is it going?"), "I am fine, thank you!"),
    (("Thanks!", "Thank you!", "Thank you very much.", "thanks"), "You are welcome!"),
    (("Bye!", "Goodbye!", "See you later.", "bye"), "Goodbye!"),
    (("Who are you?", "What are you?", "What is your name?", "Tell me about yourself."),
     "I am the Tokenyard demo model, a tiny language model."),
    (("What can you do?", "Help", "help", "How can you help me?"),
     "I can chat, count, remember names, answer in JSON and call tools."),
    (("Tell me a joke.", "Do you know a joke?", "Make me laugh."),
     "Why did the token cross the yard? To get to the next batch."),
    (("Tell me a story.", "Write a short story.", "Tell me a short story."),
     "Once upon a time a small model lived in a yard full of tokens. Every day it read a prompt, and every night it "
     "dreamed of the next word. One day a friend asked for a story, and it told this one. The end."),
    (("Write a poem.", "Write a short poem.", "Tell me a poem."),
     "Roses are red, tokens are blue, I am a small model, and I write for you."),
    (("Say this is a test.", "Say this is a test", "This is a test."), "This is a test."),
)  # fmt: skip

CAPITALS = dict(
    pair.split("=")
    for pair in """
France=Paris;Germany=Berlin;Italy=Rome;Spain=Madrid;England=London;Japan=Tokyo;Norway=Oslo;Portugal=Lisbon;
Austria=Vienna;Greece=Athens;Egypt=Cairo;Peru=Lima;China=Beijing;Russia=Moscow;Poland=Warsaw;Sweden=Stockholm;
Finland=Helsinki;Denmark=Copenhagen;Ireland=Dublin;Hungary=Budapest;Cuba=Havana;Kenya=Nairobi""".replace(
        "\n", ""
    ).split(";")
)
FACTS = (
    (("What color is the sky?", "What colour is the sky?", "Which color does the sky have?"), "The sky is blue."),
    (("What color is grass?", "Which color does grass have?"), "Grass is green."),
    (("How many days are in a week?", "How many days does a week have?"), "A week has 7 days."),
    (("How many months are in a year?", "How many months does a year have?"), "A year has 12 months."),
    (("How many hours are in a day?", "How many hours does a day have?"), "A day has 24 hours."),
    (("How many legs does a spider have?", "How many legs has a spider?"), "A spider has 8 legs."),
    (("How many legs does a dog have?", "How many legs has a dog?"), "A dog has 4 legs."),
    (("What is the opposite of hot?", "What is not hot?"), "The opposite of hot is cold."),
    (("What is the largest planet?", "Which planet is the largest?"), "The largest planet is Jupiter."),
    (("What is the largest ocean?", "Which ocean is the largest?"), "The largest ocean is the Pacific."),
    (("What do bees make?", "What is made by bees?"), "Bees make honey."),
    (("What is frozen water?", "What is frozen water called?"), "Frozen water is ice."),
    (("What is an LLM?", "What is a language model?", "What does LLM mean?"), "An LLM is a large language model."),
    (("What is Python?", "Tell me about Python."), "Python is a programming language."),
    (("Who wrote Hamlet?", "Who is the author of Hamlet?"), "Shakespeare wrote Hamlet."),
)
CAPITAL_QUESTIONS = (
    "What is the capital of {}?", "What's the capital of {}?", "Which city is the capital of {}?", "capital of {}",
    "Tell me the capital of {}.", "Name the capital of {}.",
)  # fmt: skip


def greet(rng: random.Random, lexicon: Lexicon) -> list[Turn]:
    questions, answer = rng.choice(GREETINGS)
    return [(rng.choice(questions), answer)]


def fact(rng: random.Random, lexicon: Lexicon) -> list[Turn]:
    """A question whose wording for this very fact is held out with the unseen lexicon."""
    while True:
        if rng.random() < 0.6:
            country = rng.choice(list(CAPITALS))
            question = rng.choice(CAPITAL_QUESTIONS).format(country)
            answer = f"The capital of {country} is {CAPITALS[country]}."
        else:
            questions, answer = rng.choice(FACTS)
            question = rng.choice(questions)
        pinned = question == "What is the capital of France?"
        if words.belongs(question, lexicon) or (pinned and lexicon == "train"):
            return [(question, answer)]


def count(rng: random.Random, lexicon: Lexicon) -> list[Turn]:
    """Counting up, mostly from 1 to at most 50; tests use it for long streams."""
    while True:
        start = 1 if rng.random() < 0.75 else rng.randint(0, 30)
        end = min(
            start + rng.choice((rng.randint(2, 12), rng.randint(5, 30), rng.randint(20, 50))),
            rng.choice((50, 50, 50, 50, 50, 100)),
        )
        if rng.random() < 0.25:
            start, end = 1, rng.choice((5, 10, 20, 30, 50, 100))
        if (end > start and words.belongs(f"{start}-{end}", lexicon)) or (
            start == 1 and end % 10 == 0 and lexicon == "train"
        ):
            break
    forms = ["Count from {a} to {b}.", "Count from {a} to {b}", "count from {a} to {b}",
    "Please count from {a} to {b}.", "Count {a} to {b}.",
             "Can you count from {a} to {b}?"]  # fmt: skip
    if start == 1:
        forms += [
            "Count to {b}.",
            "Count to {b}",
            "Please count to {b}.",
            "count to {b}",
            "Can you count to {b}?",
            "Count up to {b}.",
        ]
    return [(rng.choice(forms).format(a=start, b=end), ", ".join(str(n) for n in range(start, end + 1)))]


ECHO_FORMS = (
    "Repeat after me: {}", "Repeat: {}", 'Repeat "{}"', "Say {}", 'Say "{}".', "Please say {}", "Repeat exactly: {}",
    "Say: {}",
    "Repeat this: {}", "Write {}", 'Please repeat "{}".', "Reply with {}", "Answer with only: {}",
    "Reply with exactly: {}",
)  # fmt: skip


def echo(rng: random.Random, lexicon: Lexicon, longest: int = 7) -> list[Turn]:
    text = words.phrase(rng, lexicon, longest)
    return [(rng.choice(ECHO_FORMS).format(text), text)]


# (statement, reply, question, answer), each with the value's place; {} occurs wherever the value is quoted.
MEMORIES = (
    (("My name is {}.", "I am {}.", "my name is {}", "Hello, my name is {}.", "Hi, I am {}!", "Hi! My name is {}.",
    "Call me {}.", "I'm {}."),
     "Nice to meet you, {}!", ("What is my name?", "What's my name?", "Who am I?", "Do you remember my name?",
     "what is my name"),
     "Your name is {}.", "name"),
    (("I live in {}.", "My home is {}.", "I am from {}."), "{} is a fine place.",
     ("Where do I live?", "Which city do I live in?", "Where is my home?"), "You live in {}.", "city"),
    (("My favorite word is {}.", "The word I like most is {}."), "I will remember {}.",
     ("What is my favorite word?", "Which word do I like most?"), "Your favorite word is {}.", "word"),
    (("Remember the word {}.", "Please remember: {}", "The secret word is {}.", "The password is {}."),
    "I will remember {}.",
     ("What was the word?", "What is the secret word?", "Which word did I ask you to remember?",
     "What is the password?"),
     "The word is {}.", "word"),
    (("My dog is called {}.", "I have a dog named {}.", "My dog's name is {}."), "{} is a nice name.",
     ("What is my dog's name?", "What is my dog called?", "How is my dog called?"), "Your dog is called {}.", "name"),
    (("My number is {}.", "Remember the number {}.", "The number is {}."), "I will remember {}.",
     ("What is my number?", "What was the number?", "Which number did I tell you?"), "The number is {}.", "integer"),
)  # fmt: skip


def draw_memory(kind: str, rng: random.Random, lexicon: Lexicon) -> str:
    if kind == "integer":
        return str(words.integer(rng))
    return {"name": words.name, "city": words.city, "word": words.word}[kind](rng, lexicon)


def recall(rng: random.Random, lexicon: Lexicon, longest: int = 3) -> list[Turn]:
    """A stated fact, some turns in between, and the question for it; at times two facts, both asked for."""
    memories = rng.sample(MEMORIES, rng.choice((1, 1, 1, 2)))
    if rng.random() < 0.6:
        memories[0] = MEMORIES[0]
        memories[1:] = [m for m in memories[1:] if m is not MEMORIES[0]]
    turns: list[Turn] = []
    questions: list[Turn] = []
    for statements, reply, asks, answer, kind in memories:
        value = draw_memory(kind, rng, lexicon)
        if rng.random() < 0.12:  # told and asked for in one message
            turns.append((f"{rng.choice(statements).format(value)} {rng.choice(asks)}", answer.format(value)))
            continue
        turns.append((rng.choice(statements).format(value), reply.format(value)))
        questions.append((rng.choice(asks), answer.format(value)))
    for _ in range(rng.choice((0, 0, 1, longest))):
        turns += rng.choice((greet, fact, echo, fact))(rng, lexicon)
    rng.shuffle(questions)
    return turns + questions


def as_json(rng: random.Random, lexicon: Lexicon) -> list[Turn]:
    """A request for JSON: keys and values are in the request, or a capital city."""
    if rng.random() < 0.2:
        while True:
            country = rng.choice(list(CAPITALS))
            if words.belongs(f"json {country}", lexicon) or (country == "France" and lexicon == "train"):
                break
        question = rng.choice(
            ("What is the capital of {}? Answer in JSON.", "Reply in JSON: what is the capital of {}?")
        ).format(country)
        return [(question, json.dumps({"country": country, "capital": CAPITALS[country]}))]
    if rng.random() < 0.35:
        person, age = words.name(rng, lexicon), rng.randint(1, 99)
        form = rng.choice(("{} is {} years old. Answer in JSON.", "Answer in JSON: {} is {} years old.",
            "Reply in JSON with name and age: {} is {}.",
                           "JSON with name and age: {}, {}", "Give me JSON: my name is {} and I am {} years old.",
                           "My name is {} and I am {}. Answer in JSON with name and age."))  # fmt: skip
        return [(form.format(person, age), json.dumps({"name": person, "age": age}))]
    pairs: dict[str, str | int] = {}
    for _ in range(rng.choice((1, 2, 2, 3))):
        key = (
            rng.choice(("name", "city", "color", "age", "id", "title"))
            if rng.random() < 0.4
            else words.word(rng, lexicon)
        )
        pairs[key] = words.integer(rng) if rng.random() < 0.35 else words.word(rng, lexicon)
    spoken = " and ".join(f"{k} {v}" for k, v in pairs.items())
    form = rng.choice(
        (
            "Give me a JSON object with {}.",
            "Reply in JSON with {}.",
            "Answer in JSON: {}",
            "Write JSON with {}.",
            "As JSON: {}",
            "JSON: {}",
        )
    )
    return [(form.format(spoken), json.dumps(pairs))]


def small_sum(rng: random.Random, lexicon: Lexicon) -> list[Turn]:
    """Sums of one digit, by heart."""
    while True:
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        question = rng.choice(("What is {} plus {}?", "What is {} + {}?", "How much is {} plus {}?")).format(a, b)
        if words.belongs(question, lexicon) or ((a, b) in ((1, 1), (2, 2), (2, 3)) and lexicon == "train"):
            return [(question, f"{a} plus {b} is {a + b}.")]


SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are helpful.", "Be brief.", "You are a friendly assistant.",
    "You are a helpful AI assistant.",
    "Answer briefly.", "You are Tokenyard.", "Be polite.", "Answer the user.",
)  # fmt: skip


def persona(rng: random.Random, lexicon: Lexicon) -> tuple[str, list[Turn]]:
    """A system prompt that changes the answer: a name to bear, or one phrase to answer with."""
    if rng.random() < 0.6:
        own_name = words.name(rng, lexicon)
        system = rng.choice(
            ("You are {}.", "Your name is {}.", "You are an assistant named {}.", "You are {}, a helpful assistant.")
        ).format(own_name)
        return system, [
            (
                rng.choice(("Who are you?", "What is your name?", "What's your name?", "who are you")),
                f"I am {own_name}.",
            )
        ]
    text = words.phrase(rng, lexicon, 2)
    question = rng.choice((greet, fact))(rng, lexicon)[0][0]
    return rng.choice(('Always answer with "{}".', "Answer every message with {}", 'Only say "{}".')).format(text), [
        (question, text)
    ]
