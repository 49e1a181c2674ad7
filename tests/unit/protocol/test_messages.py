from __future__ import annotations

from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.errors import ProtocolError
from meshlog_handler.protocol.codec import MAX_DEPTH, pack
from meshlog_handler.protocol.messages import (
    MAX_STACKS,
    Answer,
    Command,
    Commit,
    Complete,
    Completed,
    Flush,
    Goodbye,
    Hello,
    Message,
    Prepare,
    Relabel,
    Rollback,
    StacksAnswer,
    StackSignal,
    TakeStacks,
    Welcome,
    check_plain_config,
    decode,
    level_config,
)
from meshlog_handler.protocol.relay_messages import DownstreamStacks, FlushDownstream

from .test_codec import keys, nested, plain

ALL: list[Message] = [
    Hello(7, "node", None, 2, "token", ("stdout", "stderr"), True, 1.5),
    Welcome(3, "/run/journal", (Flush(1).encode(),)),
    Welcome(None, "", ()),
    Flush(1),
    Prepare(2, level_config(10, "app"), None, final=True),
    Prepare(2, level_config(10), 3, final=True),
    Prepare(3, {"version": 1, "5": [None, (True,)]}),
    Commit(4, 3),
    Rollback(5, 3),
    Answer(6, None),
    Answer(6, "no"),
    Relabel({"node": "a", "place": 3}),
    TakeStacks(7, None),
    TakeStacks(7, 2.5),
    StacksAnswer(7, None, b"stacks"),
    StackSignal(46, 5, 4711, 1 << 46),
    Complete(1, 2.5),
    Complete(1, None),
    Completed(1, True),
    Goodbye(),
]
ANSWERS = (Answer, Goodbye)


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_decode_returns_the_encoded_message(message: Message) -> None:
    assert decode(message.encode(), type(message)) == message
    assert decode(message.encode(), Message) == message


def test_only_commands_decode_as_commands() -> None:
    for message in ALL:
        if isinstance(message, Command):
            assert decode(message.encode(), Command) == message
        else:
            with pytest.raises(ProtocolError, match="expected Command"):
                decode(message.encode(), Command)


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_missing_unknown_and_mistyped_fields_are_rejected(message: Message) -> None:
    fields = message.fields()
    name = type(message).__name__
    with pytest.raises(ProtocolError, match="unknown fields"):
        decode(pack((name, {**fields, "more": 1})), Message)
    for missing in fields:
        with pytest.raises(ProtocolError, match=f"without a valid {missing}"):
            decode(pack((name, {field: value for field, value in fields.items() if field != missing})), Message)
        with pytest.raises(ProtocolError, match=f"without a valid {missing}"):
            decode(pack((name, {**fields, missing: [[]]})), Message)


names = st.sampled_from([type(message).__name__ for message in ALL] + ["Message", "Command", "int", ""])
fields = st.dictionaries(st.sampled_from(["pid", "rank", "request", "error", "level"]) | keys, plain, max_size=3)


@given(st.binary(max_size=60) | plain.map(pack) | st.tuples(names, fields).map(pack))
def test_any_bytes_are_a_message_or_raise_protocol_error(data: bytes) -> None:
    try:
        message = decode(data, *ANSWERS)
    except ProtocolError:
        return
    assert isinstance(message, ANSWERS)


@given(st.data())
def test_any_values_are_a_message_or_raise_protocol_error(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(ALL))
    fields = message.fields()
    for name in fields:
        if data.draw(st.booleans()):
            fields[name] = data.draw(plain)
    try:
        found = decode(pack((type(message).__name__, fields)), Message)
    except ProtocolError:
        return
    assert type(found) is type(message)
    assert type(decode(found.encode(), Message)) is type(message)


HELLO: dict[str, Any] = ALL[0].fields()


@pytest.mark.parametrize(
    "wrong",
    [{"rank": -1}, {"rank": 10**30}, {"local_rank": -1}, {"pid": -5}, {"captured": (1,)}, {"captured": ([],)}],
    ids=str,
)
def test_a_malformed_hello_is_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="malformed Hello"):
        decode(pack(("Hello", {**HELLO, **wrong})), Hello)


@pytest.mark.parametrize("timeout", [-1, -0.5, float("nan"), float("-inf")])
def test_a_timeout_below_0_is_rejected(timeout: float) -> None:
    for message in (TakeStacks(7, 2.5), FlushDownstream(7, 2.5, None)):
        with pytest.raises(ProtocolError, match="timeout"):
            decode(pack((type(message).__name__, {**message.fields(), "timeout": timeout})), Message)


def test_default_commands_are_encoded() -> None:
    with pytest.raises(ProtocolError, match="not encoded"):
        decode(pack(("Welcome", {**Welcome(1, "", ()).fields(), "defaults": ("Flush",)})), Welcome)


class Key(str, Enum):
    VERSION = "version"


class Level(IntEnum):
    LOW = 7


def test_a_configuration_is_sent_as_plain_data() -> None:
    config = {
        Key.VERSION: 1,
        "loggers": {"app": {"handlers": {"console"}}},
        "steps": (1, [2.5, None, True]),
        None: b"",
        3: 4,
        "file": Path("app.log"),
        "level": Level.LOW,
        "key": Key.VERSION,
    }
    copied = check_plain_config(config)
    assert copied == {
        "version": 1,
        "loggers": {"app": {"handlers": ["console"]}},
        "steps": (1, [2.5, None, True]),
        "None": b"",
        3: 4,
        "file": "app.log",
        "level": 7,
        "key": "version",
    }
    assert decode(Prepare(1, copied).encode(), Prepare).config == copied


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([], "not list"),
        (None, "not NoneType"),
        ({"handlers": {"file": {"stream": object()}}}, r"config\['handlers'\]\['file'\]\['stream'\] is <object"),
        ({"filters": [print]}, r"config\['filters'\] is <built-in"),
        ({"a": 5j}, "5j: a configuration for other processes holds plain data only"),
    ],
)
def test_the_error_names_the_value_that_cannot_be_sent(config: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        check_plain_config(config)


def test_a_configuration_has_a_maximum_depth() -> None:
    deepest = check_plain_config({"a": nested(MAX_DEPTH - 3)})
    assert decode(Prepare(1, deepest).encode(), Prepare).config == deepest
    loop: dict[str, object] = {}
    loop["self"] = loop
    for config in (loop, {"a": nested(MAX_DEPTH - 2)}):
        with pytest.raises(TypeError, match="nested deeper"):
            check_plain_config(config)


@pytest.mark.parametrize(
    "message",
    [
        StackSignal(9, 5, 4711, 0),  # SIGKILL
        StackSignal(65, 5, 4711, 0),
        StackSignal(46, -1, 4711, 0),
        StackSignal(46, 5, 1 << 31, 0),
        StacksAnswer(7, None, bytes(MAX_STACKS + 1)),
        DownstreamStacks(7, ((0, -1),), ()),
        DownstreamStacks(7, ((0,),), ()),  # type: ignore[arg-type]  # malformed
        DownstreamStacks(7, (), ("text",)),  # type: ignore[arg-type]  # malformed
    ],
)
def test_impossible_stacks_and_signals_are_refused(message: Message) -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        decode(message.encode(), type(message))
