"""Compares texts by their shape, with numbers and ids masked, and by their edit distance. Pure."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final, NamedTuple

SIMILAR_PERCENT: Final = 15

# One pattern finds everything that varies between similar lines. Every match begins with a character of the class in its first
# line, so that the engine skips all other characters; the alternatives then look back at this character.
_TOKEN = re.compile(
    r"""[0-9a-fA-F/\x1b +-](?:
    ((?<=\x1b)\[[0-?]*[ -/]*[@-~])                                      # 1: a colour
  | ((?<=[ ]{2})(?<![ ]{3})[ ]*(?=[-+]?[0-9]))                          # 2: what pads a number
  | ((?<![0-9A-Za-z].)                                                  # 3: a name. One of
      (?: (?<=[0-9a-fA-F])[0-9a-fA-F]{7}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}   # a uuid
        | (?<=0)[xX][0-9a-fA-F]+                                        # a hexadecimal number
        | (?: (?<=[0-9])(?=[0-9]*[a-fA-F]) | (?<=[a-fA-F])(?=[a-fA-F]*[0-9]) )
          [0-9a-fA-F]{6,}                                               # a hash: digits and letters
      )(?![0-9A-Za-z])
    | (?<=/)(?<![\w/.%)\]].)[\w.@+~%-]+(?:/[\w.@+~%-]+)*/?              # an absolute path
    | (?<=[0-9])[0-9]*(?:\.[0-9]+){2,}                                  # a version, an address
    )
  | (?: (?<=[0-9])                                                      # else a number. One of
        (?: [0-9]{3}-[0-9]{2}-[0-9]{2} | [0-9]?(?::[0-9]{2})+(?:[.,][0-9]+)? )(?![0-9])   # a date, a time
      | (?: (?<=[0-9]) | (?<=[-+])(?<![\w)\]].)[0-9] )
        (?: [0-9]{0,2}(?:,[0-9]{3})+(?![0-9])                           # with thousands marked
          | [0-9]*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)? )                   # plain
    ))""",
    re.VERBOSE | re.DOTALL,
)
_COLOUR, _GAP, _NAME = 1, 2, 3
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_CLASSES = bytes(byte & 63 for byte in range(256))
_UNARY = [(1 << count) - 1 for count in range(8)]


class Token(NamedTuple):
    """A part of a text that varies, ``text[start:end]``: a number or a name (an id, a path)."""

    start: int
    end: int
    text: str
    is_number: bool


class TokenizedLine(NamedTuple):
    """A text split into tokens, which vary, and pieces, which are fixed."""

    shape: str  # the text with tokens masked, without colours and the padding of numbers
    pieces: list[str]  # the text between the tokens, with colours and padding; one more than `tokens`
    tokens: list[Token]
    has_names: bool  # whether a token is a name
    wordless: bool = False  # see `tokenize_unless_wordless`


def tokenize_line(text: str) -> TokenizedLine:
    """Split a text into tokens and pieces."""
    masked: list[str] = []
    pieces: list[str] = []
    tokens: list[Token] = []
    has_names = False
    copied = piece_from = 0
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        kind = match.lastindex
        masked.append(text[copied:start])
        copied = end
        if kind in (_COLOUR, _GAP):
            continue
        masked.append("#")
        pieces.append(text[piece_from:start])
        piece_from = end
        tokens.append(Token(start, end, match[0], kind is None))
        has_names = has_names or kind == _NAME
    masked.append(text[copied:])
    pieces.append(text[piece_from:])
    return TokenizedLine("".join(masked), pieces, tokens, has_names)


def tokenize_unless_wordless(text: str) -> TokenizedLine:
    """Split a whole line into tokens and pieces, unless it has no word. Then its shape is the text: only equal lines match."""
    tokens = tokenize_line(text)
    if not any(map(str.isalpha, tokens.shape)):
        return TokenizedLine(text, [text], [], has_names=False, wordless=True)
    return tokens


def mask_digits(text: str) -> bytes:
    """Return the digit mask, a cheap key: texts with equal masks have digits at the same places and differ only in digits."""
    return text.encode("utf-8", "surrogatepass").translate(_DIGITS)


def mask_digits_of_lines(text: str) -> list[bytes]:
    """Return the digit masks of the lines of a text, at a fraction of the cost of one at a time."""
    return mask_digits(text).split(b"\n")


def number_value(text: str) -> float:
    """Return the value by which number tokens are ordered. Later dates and times have greater values."""
    if text.isdecimal() and len(text) < 4000:  # int() may reject longer texts
        return int(text)
    if ":" in text:
        value = 0.0
        for part in text.replace(",", ".").split(":"):
            value = value * 60 + float(part)
        return value
    if len(text) == 10 and text[4] == text[7] == "-":
        return int(text.replace("-", ""))
    return float(text.replace(",", ""))


def distance(a: str, b: str, limit: int) -> int:
    """Return the Levenshtein distance of two texts, or ``limit + 1`` if it is larger than `limit`."""
    # Bit-parallel: the bits of one integer hold a column of the table (Myers 1999, after Hyyrö 2003).
    if a == b:
        return 0
    if len(a) < len(b):
        a, b = b, a
    if len(a) - len(b) > limit:
        return limit + 1
    a, b = _trim(a, b)
    if not b:
        return len(a)
    places: dict[str, int] = {}
    bit = 1
    for char in a:
        places[char] = places.get(char, 0) | bit
        bit <<= 1
    mask = bit - 1
    last = bit >> 1
    rises, falls = mask, 0
    score = len(a)
    left = len(b)
    for char in b:
        equal = places.get(char, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        up = falls | (mask & ~(diagonal | rises))
        down = diagonal & rises
        if up & last:
            score += 1
        elif down & last:
            score -= 1
        left -= 1
        if score - left > limit:  # each remaining column lowers the score by one at most
            return limit + 1
        up = (up << 1) | 1
        rises = ((down << 1) | ~(diagonal | up)) & mask
        falls = up & diagonal & mask
    return score if score <= limit else limit + 1


def _trim(a: str, b: str) -> tuple[str, str]:
    """Remove the common beginning and end, which do not affect the distance. `b` is not longer than `a`."""
    head = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        head += 1
    tail = 0
    most = len(b) - head
    while tail < most and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    return a[head : len(a) - tail], b[head : len(b) - tail]


def distance_limit(longer: int) -> int:
    """Return the largest distance at which texts are similar if the longer one has `longer` characters."""
    return max(0, (SIMILAR_PERCENT * longer - 1) // 100)


def profile(text: str) -> int:
    """Return the characters of a text and their counts as the bits of one integer.

    ``(profile(a) ^ profile(b)).bit_count() <= 2 * distance(a, b) - abs(len(a) - len(b))`` holds for all texts. This check costs
    a fraction of the distance and excludes most pairs. Characters have 64 classes and are counted up to 7; both only lower the
    left side.
    """
    bits = 0
    for kind, count in Counter(text.encode("ascii", "replace").translate(_CLASSES)).items():
        bits |= _UNARY[count if count < 7 else 7] << (7 * kind)
    return bits
