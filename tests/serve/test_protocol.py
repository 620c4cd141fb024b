# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages and frames: what is right survives the journey, what is wrong is named."""

import pickle

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjscc.errors import one_line
from diffjscc.serve.protocol import (
    CODES,
    MAX_HEADER,
    MAX_IMAGE,
    MESSAGES,
    VERSION,
    Accepted,
    Busy,
    Cancel,
    Error,
    Ping,
    Pong,
    Progress,
    Refusal,
    Request,
    Result,
    decode,
    encode,
)

ids = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=64)
lines = st.text(max_size=80).map(one_line)
sides = st.integers(16, 40)


@st.composite
def requests(draw):
    width, height, encoding = draw(sides), draw(sides), draw(st.sampled_from(["raw", "png", "jpeg"]))
    size = width * height * 3 if encoding == "raw" else draw(st.integers(1, 300))
    return Request(
        id=draw(ids),
        refiner=draw(ids),
        width=width,
        height=height,
        encoding=encoding,
        reply_encoding=draw(st.sampled_from(["raw", "png", "jpeg"])),
        steps=draw(st.none() | st.integers(1, 1000)),
        sampler=draw(st.none() | st.sampled_from(["ddpm", "flow"])),
        seed=draw(st.integers(0, (1 << 63) - 1)),
        snr_db=draw(st.none() | st.floats(-100, 100)),
        prompt=draw(st.none() | st.text(max_size=200)),
        deadline=draw(st.floats(0, 3600)),
        progress=draw(st.booleans()),
        preview=draw(st.booleans()),
        image=bytes(size),
    )


replies = st.one_of(
    st.builds(Cancel, id=ids),
    st.just(Ping()),
    st.builds(Accepted, id=ids),
    st.builds(Progress, id=ids, step=st.integers(1, 100), steps=st.integers(1, 100)),
    st.builds(
        lambda id, width, height: Progress(
            id=id, step=1, steps=2, width=width, height=height, encoding="raw", image=bytes(width * height * 3)
        ),
        id=ids,
        width=sides,
        height=sides,
    ),
    st.builds(Result, id=ids, width=sides, height=sides, encoding=st.just("png"), seconds=st.floats(0, 99), image=st.just(b"x")),
    st.builds(Error, id=st.none() | ids, code=st.sampled_from(list(CODES)), message=lines, retryable=st.booleans()),
    st.builds(Busy, id=ids, message=lines, retry_after=st.floats(0, 60)),
    st.builds(Pong, version=lines, instance=ids, refiners=st.lists(ids, max_size=5), queued=st.just(1), running=st.just(2)),
)


@given(message=requests() | replies)
def test_every_message_survives_the_journey(message):
    assert decode(encode(message)) == message


def header(**changes):
    """The header of a good request, with fields replaced; None takes one out."""
    fields = {"type": "refine", "id": "a", "refiner": "mini", "width": 32, "height": 16, "encoding": "raw"} | changes
    return {name: value for name, value in fields.items() if value is not None}


def refused(*frames):
    with pytest.raises(Refusal) as caught:
        decode(frames)
    message = caught.value.message
    assert "\n" not in message and len(message) < 400
    return caught.value


IMAGE = bytes(32 * 16 * 3)


def test_a_request_needs_five_fields_and_has_defaults_for_the_rest():
    request = decode([VERSION, msgpack.packb(header()), IMAGE])
    assert (request.steps, request.seed, request.snr_db, request.prompt, request.deadline) == (None, 0, None, None, 60.0)
    for name in ("id", "refiner", "width", "height", "encoding"):
        assert f"lacks field {name}" in refused(VERSION, msgpack.packb(header(**{name: None})), IMAGE).message


def test_nil_is_the_same_as_leaving_a_field_out():
    without = decode([VERSION, msgpack.packb(header()), IMAGE])
    optional = "reply_encoding", "steps", "sampler", "seed", "snr_db", "prompt", "deadline", "progress", "preview"
    assert decode([VERSION, msgpack.packb(header() | dict.fromkeys(optional)), IMAGE]) == without
    for name in ("id", "refiner", "width", "height", "encoding"):
        assert f"field {name} of refine is None" in refused(VERSION, msgpack.packb(header() | {name: None}), IMAGE).message


def test_a_refusal_can_be_pickled():
    refusal = pickle.loads(pickle.dumps(Refusal("lost", "a line", "an id")))
    assert (refusal.code, str(refusal), refusal.id, refusal.retryable) == ("lost", "a line", "an id", True)
    with pytest.raises(ValueError, match="not one of the protocol's"):
        Refusal("lots", "a line")


@pytest.mark.parametrize(
    "changes, code, words",
    [
        ({"type": "refind"}, "bad-request", "type is 'refind': expected one of refine, cancel"),
        ({"type": ["refine"]}, "bad-request", "type is a list"),
        ({"colour": 1}, "bad-request", "unknown field 'colour': it knows id, refiner"),
        ({"id": ""}, "bad-request", "field id"),
        ({"id": "x" * 65}, "bad-request", "field id"),
        ({"id": "two\nlines"}, "bad-request", "field id"),
        ({"seed": True}, "bad-request", "field seed of refine is True"),
        ({"seed": -1}, "bad-request", "a whole number from 0"),
        ({"steps": 0}, "bad-request", "field steps"),
        ({"steps": 2.0}, "bad-request", "field steps"),
        ({"snr_db": float("nan")}, "bad-request", "field snr_db"),
        ({"deadline": float("inf")}, "bad-request", "field deadline"),
        ({"deadline": -1}, "bad-request", "field deadline"),
        ({"prompt": "x" * 2001}, "bad-request", "field prompt"),
        ({"progress": 1}, "bad-request", "true or false"),
        ({"encoding": "bmp"}, "bad-request", "one of raw, png, jpeg"),
        ({"width": 15}, "bad-request", "field width"),
        ({"width": 33}, "bad-image", "raw image of 33×16 has 1536 bytes: expected 1584"),
        ({"width": 65536, "height": 21846}, "too-large", "at most 67108864"),
        ({"width": 1 << 62}, "bad-request", "field width"),
        ({"encoding": "png", "width": 40_000, "height": 36_000}, "too-large", "4320000000 bytes"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(changes, code, words):
    error = refused(VERSION, msgpack.packb(header(**changes)), IMAGE)
    assert error.code == code and words in error.message
    assert error.id == ("a" if "id" not in changes else None)


@pytest.mark.parametrize(
    "frames, code, words",
    [
        ([], "version", "nothing"),
        ([b""], "version", "b''"),
        ([b"diffjscc-refine/2", b"\x80"], "version", "b'diffjscc-refine/2': this end speaks diffjscc-refine/1"),
        ([VERSION + b"0", b"\x80"], "version", "this end speaks"),
        ([VERSION], "bad-request", "1 frames"),
        ([VERSION, b"\x80", b"", b""], "bad-request", "4 frames"),
        ([VERSION, b""], "bad-request", "not MessagePack"),
        ([VERSION, b"\x80\x80"], "bad-request", "not MessagePack"),
        ([VERSION, b"\xc1"], "bad-request", "not MessagePack"),
        ([VERSION, b"\x93\x01\x02\x03"], "bad-request", "header is a list"),
        ([VERSION, b"\x81\x01\x02"], "bad-request", "not MessagePack"),
        ([VERSION, msgpack.packb({"type": "ping", "x": b"bytes"})], "bad-request", "not MessagePack"),
        ([VERSION, msgpack.packb({"type": msgpack.ExtType(1, b"x")})], "bad-request", "not MessagePack"),
        ([VERSION, b"\xdd\xff\xff\xff\xff"], "bad-request", "not MessagePack"),
        ([VERSION, b"\xdb\xff\xff\xff\xff"], "bad-request", "not MessagePack"),
        ([VERSION, b"\x91" * 5000], "bad-request", "not MessagePack"),
        ([VERSION, bytes(MAX_HEADER + 1)], "too-large", "65537 bytes"),
        ([VERSION, msgpack.packb({"type": "ping"}), b"image"], "bad-request", "carries no image"),
        ([VERSION, msgpack.packb(header())], "bad-image", "has 0 bytes"),
        ([VERSION, msgpack.packb(header(encoding="png"))], "bad-image", "empty"),
    ],
)
def test_what_is_wrong_with_frames_is_named(frames, code, words):
    error = refused(*frames)
    assert error.code == code and words in error.message


def test_an_image_beyond_64_mib_is_refused_whatever_it_declares():
    class Huge(bytes):
        def __len__(self):
            return MAX_IMAGE + 1

    assert refused(VERSION, msgpack.packb(header(encoding="png")), Huge()).code == "too-large"


@given(frames=st.lists(st.binary(max_size=100), max_size=4), versioned=st.booleans())
def test_nothing_but_a_protocol_error_comes_of_rubbish(frames, versioned):
    with pytest.raises(Refusal):
        decode([VERSION, *frames] if versioned else frames)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = sorted({name for cls in MESSAGES.values() for name in cls.__dataclass_fields__})


@given(kind=st.sampled_from(sorted(MESSAGES)), fields=st.dictionaries(st.sampled_from(names), anything, max_size=8))
def test_any_value_in_any_field_is_taken_or_named(kind, fields):
    try:
        decode([VERSION, msgpack.packb(fields | {"type": kind}), IMAGE])
    except Refusal as error:
        assert error.message.isprintable()
