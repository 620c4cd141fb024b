# SPDX-License-Identifier: GPL-3.0-or-later
"""Images, symbols and headers as PMTs.

image PDU    metadata (image_id, width, height, …) · u8vector, RGB, row by row; or without width and height a file's bytes
symbol PDU   metadata (the fields of `ImageHeader`, and snr_db once received) · c32vector
burst        the fields of `ImageHeader` as a dictionary, in a tag on the first symbol
"""

import io
import struct

import numpy as np
import pmt

from diffjscc.images import read_image
from diffjscc.symbols import MAX_PIXELS, ImageHeader

#: How a serialised u8vector begins: uniform vector, of bytes; then its length and one byte of padding (pmt_serialize.cc).
_U8VECTOR, _LENGTH_AND_PADDING = b"\x0a\x00", struct.Struct(">IBx")

#: How JPEG, PNG and WebP files begin.
_FILES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")

#: Key of the tag that carries a burst's ImageHeader.
HEADER_TAG = pmt.intern("image_header")

#: Key of the tag that carries the image part of a burst's header on the air, 11 bytes.
BURST_HEADER_TAG = pmt.intern("burst_header")

#: Key of the optional tag that tells a burst's SNR at the receiver, dB.
SNR_TAG = pmt.intern("snr_db")

#: Key of the tag, and in an image PDU's metadata, that tells the transmitter's callsign, where its bursts carry one.
CALLSIGN = "callsign"

#: Key of the tag on the first of the known symbols behind a burst: their number. They are in no burst.
REFERENCE_TAG = pmt.intern("reference")

#: Key in an image PDU's metadata: True for moving images, of which the newest wins.
LIVE = "live"

#: Name of the tag that carries a burst's length, as GNU Radio's own blocks call it.
LENGTH_TAG = "packet_len"


def tags_by_offset(tags):
    """{offset: {name: value}} of a stream's tags, by offset."""
    found = {}
    for tag in sorted(tags, key=lambda tag: tag.offset):
        found.setdefault(tag.offset, {})[pmt.symbol_to_string(tag.key)] = tag.value
    return found


def header_to_pmt(header):
    """ImageHeader → PMT dictionary."""
    return pmt.to_pmt(header.to_dict())


def header_from_pmt(message):
    """PMT dictionary → ImageHeader. Raises ValueError where it is not one."""
    return ImageHeader.from_dict(metadata_from_pmt(message))


def received_metadata(header, snr_db, truncated, callsign=""):
    """Metadata of a decoded image's PDU; the callsign only where there is one."""
    metadata = header.to_dict() | {"snr_db": snr_db, "truncated": truncated, "stage": "initial"}
    return metadata | {CALLSIGN: callsign} if callsign else metadata


def metadata_from_pmt(message):
    """PMT dictionary → dict. Raises ValueError for anything else; an empty one may also be PMT_NIL."""
    # pmt.is_dict is true for any pair, and to_python raises any kind of exception for what is in it.
    try:
        metadata = pmt.to_python(message) if not pmt.is_null(message) else {}
    except Exception as error:
        raise ValueError(f"metadata cannot be read as a dictionary ({error})") from None
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata is {type(metadata).__name__}: expected a dictionary")
    return metadata


def image_to_pdu(pixels, metadata):
    """uint8 (H, W, 3) and a dict → image PDU; width and height are filled in."""
    height, width = pixels.shape[:2]
    return pmt.cons(pmt.to_pmt({**metadata, "width": width, "height": height}), _u8vector(pixels.tobytes()))


def image_from_pdu(message):
    """Image PDU → (pixels uint8 (H, W, 3), metadata). Raises ValueError where it is not one.

    Without width and height, as Socket PDU gives it, the vector may hold a JPEG, PNG or WebP file.
    """
    metadata, body = _split(message)
    if not pmt.is_u8vector(body):
        raise ValueError("image PDU does not hold a u8vector of RGB bytes")
    if not metadata.keys() & {"width", "height"}:
        pixels = _read_file(bytes(_u8vector_bytes(body)))
        return pixels, metadata | {"width": pixels.shape[1], "height": pixels.shape[0]}
    try:
        width, height = int(metadata["width"]), int(metadata["height"])
    except (KeyError, TypeError, ValueError):
        raise ValueError("image PDU has no whole numbers as width and height in its metadata") from None
    size = pmt.length(body)
    if min(width, height) < 1 or width * height > MAX_PIXELS or size != width * height * 3:
        raise ValueError(f"image PDU says {width}×{height} but holds {size} bytes: expected width × height × 3")
    # A copy, so that the pixels may be written to.
    return np.frombuffer(_u8vector_bytes(body), np.uint8).reshape(height, width, 3).copy(), metadata


def _read_file(data):
    if not data.startswith(_FILES):
        raise ValueError("image PDU lacks width and height in its metadata, and is no JPEG, PNG or WebP file either")
    try:
        return read_image(io.BytesIO(data), "image PDU")
    except ValueError as error:
        raise ValueError(
            f"{error}; it has {len(data)} bytes: a block that cuts messages, such as Socket PDU with its MTU, must let the"
            " largest file through whole"
        ) from None


def _u8vector(data):
    """bytes → u8vector. PMT's own functions take and give lists of numbers, which for an image lasts tenths of a second."""
    return pmt.deserialize_str(_U8VECTOR + _LENGTH_AND_PADDING.pack(len(data), 1) + data)


def _u8vector_bytes(vector):
    """u8vector → bytes."""
    serialised = pmt.serialize_str(vector)
    return memoryview(serialised)[len(serialised) - pmt.length(vector) :]


def symbols_to_pdu(values, metadata):
    """complex64 (K,) and a dict → symbol PDU."""
    return pmt.cons(pmt.to_pmt(metadata), pmt.init_c32vector(len(values), np.ascontiguousarray(values, np.complex64)))


def symbols_from_pdu(message):
    """Symbol PDU → (complex64 (K,), metadata). Raises ValueError where it is not one."""
    metadata, body = _split(message)
    if not pmt.is_c32vector(body):
        raise ValueError("symbol PDU does not hold a c32vector")
    return np.array(pmt.c32vector_elements(body), np.complex64), metadata


def _split(message):
    if not pmt.is_pair(message):
        raise ValueError("message is not a PDU: expected a pair of metadata and vector")
    return metadata_from_pmt(pmt.car(message)), pmt.cdr(message)
