"""Words and values for the demo model's chats.

Rules of this file: it draws words, names, numbers and phrases from a seeded `random.Random` and knows nothing of chats,
tools or tokens. Every open-class word belongs to exactly one lexicon, decided by its checksum, so that a held-out chat
is built from words that no training chat can contain.
"""

import codecs
import random
import zlib
from typing import Literal

Lexicon = Literal["train", "unseen"]

# One open-class word in eight is held out: enough for a varied held-out set, few enough not to thin the training words.
UNSEEN_MODULUS = 8


def listed(text: str) -> list[str]:
    return text.split()


# Words that docs and tests use by name; always in the training lexicon.
PINNED = frozenset(
    listed("""
    paris london tokyo berlin rome madrid oslo lisbon ada alice bob grace alan hello world hi foo bar blue red green
    notes readme data report weather time file city text celsius fahrenheit txt md banana apple cats python pong ping
    france""")
)


CITIES = listed(
    """Paris London Tokyo Berlin Rome Madrid Oslo Lisbon Vienna Prague Dublin Athens Cairo Lima Quito Boston Chicago
Denver Seattle Toronto Montreal Sydney Perth Delhi Mumbai Seoul Beijing Shanghai Bangkok Hanoi Manila Jakarta Nairobi
Lagos Accra Tunis Warsaw Krakow Budapest Zagreb Helsinki Stockholm Copenhagen Hamburg Munich Cologne Geneva Zurich Milan
Turin Naples Venice Florence Porto Seville Valencia Barcelona Lyon Nice Bordeaux Brussels Ghent Amsterdam Utrecht Leeds
Bristol Glasgow Cardiff Belfast Havana Bogota Santiago Caracas Austin Dallas Houston Miami Atlanta Phoenix Portland
Kyoto Osaka Taipei Singapore Dubai Doha Tehran Baghdad Ankara Istanbul Sofia Tallinn Riga Vilnius Reykjavik"""
)

NAMES = listed(
    """Ada Alice Bob Grace Alan Clara David Emma Felix Gina Hugo Iris Jack Kate Liam Maya Noah Olga Peter Quinn Rosa
Sam Tara Uma Victor Wendy Xavier Yara Zoe Anna Ben Carla Dan Eva Frank Gloria Henry Ines Jonas Karin Lena Marco Nina
Oscar Paula Rita Simon Tina Ulrich Vera Walter Yusuf Amir Bella Cora Derek Elena Farid Greta Hana Ivan Julia Kenji Laura
Milan Nora Omar Priya Rahul Sofia Tomas Linus Edsger Barbara Donald Margaret Katherine Dennis Ken Guido Radia"""
)

COMMON = listed(
    """apple banana cherry orange lemon melon grape peach plum bread butter cheese coffee sugar honey pepper tomato
potato carrot onion garlic river mountain forest desert ocean island valley garden window mirror candle lantern table
chair carpet pillow blanket bottle basket hammer ladder pencil paper letter number circle square triangle yellow purple
silver golden copper marble thunder lightning rainbow shadow winter summer spring autumn morning evening midnight tiger
rabbit turtle dolphin falcon sparrow penguin spider dragon castle bridge tower market harbor village engine rocket
planet comet galaxy signal magnet battery camera printer monitor keyboard folder record ticket wallet pocket jacket
sweater button ribbon needle cotton velvet leather guitar violin trumpet piano melody rhythm doctor teacher farmer pilot
sailor painter writer baker tailor captain cats dogs horse monkey zebra camel parrot donkey kitten puppy foo bar ping
pong hello world python story puzzle secret answer problem lesson travel journey weekend holiday birthday party dinner
breakfast lunch picnic museum theater library school college office factory hospital airport station platform"""
)

VERBS = listed(
    """find open close send start stop check list create remove update book order cancel print rename move copy share
upload archive schedule measure rotate paint clean lock unlock track rate scan sort merge split paste refill water feed
charge mount tune align verify publish approve reject invite assign review"""
)
NOUNS = listed(
    """report invoice photo song ticket order table door light lamp window garage engine robot package parcel room
meeting task note message account profile recipe flight hotel train taxi movie playlist album sensor camera printer
server queue folder backup calendar alarm timer heater fan curtain garden plant fridge oven car bike boat drone map
route menu poem chart poster badge label score level team player contract budget payment refund coupon"""
)

ONSETS = listed(
    "b bl br c ch cl cr d dr f fl fr g gl gr h j k kl l m n p pl pr qu r s sh sk sl sm sn sp st str t th tr v w z"
)
NUCLEI = listed("a e i o u ai ea ee oa oo ou a e i o u")
CODAS = listed("b ck d f g k l ll m n nd ng nk nt p r rd rk rn rt s sh st t th v x z")
# Stems that no blend may contain, in rot13 so that the file itself stays fit to read.
RUDE = listed(
    codecs.decode(
        """shpx fuvg phag avt snt encr fyhg juber pbpx qvpx gvg nff
        cravf frk phz anmv cvff chffl gjng gheq ubzb cbea sneg ohzf cbbc""",
        "rot13",
    )
)


def belongs(key: str, lexicon: Lexicon) -> bool:
    """Whether a word (or any combination spelled as a string) belongs to this lexicon."""
    word = key.lower()
    unseen = word not in PINNED and zlib.crc32(word.encode()) % UNSEEN_MODULUS == 0
    return unseen == (lexicon == "unseen")


def choose(rng: random.Random, options: list[str], lexicon: Lexicon) -> str:
    """One of the options that belong to the lexicon."""
    while True:
        option = rng.choice(options)
        if belongs(option, lexicon):
            return option


def is_polite(word: str) -> bool:
    return not any(stem in word.lower() for stem in RUDE)


def pseudo_word(rng: random.Random) -> str:
    """A pronounceable word: syllables, or the halves of two common words blended (rare pieces copy only if trained)."""
    if rng.random() < 0.5:
        first, second = rng.choice(COMMON), rng.choice(COMMON)
        return first[: rng.randint(2, max(2, len(first) - 1))] + second[rng.randint(1, len(second) - 2) :]
    syllables = (
        rng.choice(ONSETS) + rng.choice(NUCLEI) + (rng.choice(CODAS) if rng.random() < 0.6 else "")
        for _ in range(rng.choice((1, 2, 2, 2, 3)))
    )
    return "".join(syllables)


def rare_word(rng: random.Random, lexicon: Lexicon) -> str:
    while True:
        word = pseudo_word(rng)
        if 3 <= len(word) <= 10 and is_polite(word) and belongs(word, lexicon):
            return word


def word(rng: random.Random, lexicon: Lexicon) -> str:
    return choose(rng, COMMON, lexicon) if rng.random() < 0.35 else rare_word(rng, lexicon)


def city(rng: random.Random, lexicon: Lexicon) -> str:
    draw = rng.random()
    if draw < 0.6:
        return choose(rng, CITIES, lexicon)
    if draw < 0.7:
        return rng.choice(("New", "San", "Port", "North")) + " " + rare_word(rng, lexicon).capitalize()
    return rare_word(rng, lexicon).capitalize()


def name(rng: random.Random, lexicon: Lexicon) -> str:
    return choose(rng, NAMES, lexicon) if rng.random() < 0.5 else rare_word(rng, lexicon).capitalize()


def integer(rng: random.Random, low: int = 0) -> int:
    """Whole numbers of one to four digits, small ones more often."""
    return rng.randint(low, rng.choice((9, 30, 99, 99, 999, 9999)))


def phrase(rng: random.Random, lexicon: Lexicon, longest: int = 5) -> str:
    """A few words, now and then with a number, capitals or punctuation."""
    parts = [word(rng, lexicon) for _ in range(rng.randint(1, longest))]
    if rng.random() < 0.12:
        parts.insert(rng.randint(0, len(parts)), str(integer(rng)))
    if len(parts) > 1 and rng.random() < 0.25:
        parts.insert(rng.randint(1, len(parts) - 1), rng.choice(("the", "a", "of", "and", "in", "is", "to", "for")))
    text = (", " if len(parts) > 2 and rng.random() < 0.08 else " ").join(parts)
    if rng.random() < 0.25:
        text = text[0].upper() + text[1:]
        text += rng.choice((".", "!", "", ""))
    return text


def path(rng: random.Random, lexicon: Lexicon) -> str:
    stem = word(rng, lexicon)
    if rng.random() < 0.2:
        stem = rng.choice(("notes", "readme", "README", "data", "report")) if lexicon == "train" else stem
    folder = rng.choice(("", "", "", "/tmp/", "docs/", word(rng, lexicon) + "/", "/" + word(rng, lexicon) + "/"))
    return folder + stem + rng.choice((".txt", ".txt", ".md", ".json", ".csv", ".py", ".log"))
