"""Captions of a scene: four word orders, a few synonyms, and attributes that are left unsaid.

An unsaid attribute is free (the model picks one), except the place: no place said means the
centre.
"""
from world import BACKGROUNDS, COLORS, POSITIONS, SHAPES, SIZES

SIZE_WORDS = {"small": ["small", "small", "little", "tiny"], "large": ["large", "large", "big"]}
SIZE_UNSAID, BACKGROUND_UNSAID, CENTER_UNSAID = 0.2, 0.1, 0.4
UNSAID = -1

# Every word a caption can hold, and a few more that a person may type: one token each.
WORDS = sorted(
    set("a an on in at the with background corner middle little tiny big".split())
    | {word for position in POSITIONS for word in position.split()}
    | set(COLORS) | set(BACKGROUNDS) | set(SHAPES) | set(SIZES))
EXTRA_WORDS = "of and picture image drawing draw shape no not cat dog photo".split()


def _with_article(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


def _place_phrase(position, rng):
    if position == "center":
        return rng.choice(["in the center", "in the center", "in the middle"])
    if position in ("top", "bottom"):
        return f"at the {position}"
    if position in ("left", "right"):
        return f"on the {position}"
    return rng.choice([f"in the {position}"] * 2 + [f"in the {position} corner"])


def caption(scenes, index, rng, complete=False):
    """One caption of scene `index` and the attribute indices it states (UNSAID where it is silent).

    `rng` is a random.Random. `complete` says every attribute, as the scorer needs. The indices
    stand in the order of world.CLASS_COUNTS; an unsaid centre is still the stated position.
    """
    position = POSITIONS[scenes.position[index]]
    background = BACKGROUNDS[scenes.background[index]]
    says_size = complete or rng.random() > SIZE_UNSAID
    says_ground = complete or rng.random() > BACKGROUND_UNSAID
    says_place = complete or position != "center" or rng.random() > CENTER_UNSAID

    size_words = [rng.choice(SIZE_WORDS[SIZES[scenes.size[index]]])] if says_size else []
    thing = " ".join(size_words + [COLORS[scenes.color[index]], SHAPES[scenes.shape[index]]])
    place = " " + _place_phrase(position, rng) if says_place else ""
    ground = f"{_with_article(background)} background"

    order = rng.random()
    if order < 0.6 or (order < 0.85 and not says_ground):
        tail = rng.choice([f" on {ground}"] * 3 + [f" on {background}"]) if says_ground else ""
        text = _with_article(thing) + place + tail
    elif order < 0.75:
        parts = [thing] + [position] * says_place + [f"{background} background"] * says_ground
        text = ", ".join(parts)
    elif not says_ground:
        text = thing + place
    elif order < 0.88:
        text = f"on {ground}, {_with_article(thing)}{place}"
    else:
        text = f"{ground} with {_with_article(thing)}{place}"

    if rng.random() < 0.1:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.1:
        text += "."
    stated = (scenes.shape[index], scenes.color[index],
              scenes.background[index] if says_ground else UNSAID,
              scenes.position[index],
              scenes.size[index] if says_size else UNSAID)
    return text, stated
