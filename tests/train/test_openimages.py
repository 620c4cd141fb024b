# SPDX-License-Identifier: GPL-3.0-or-later
"""Preparing Open Images: from a bucket that fails in every way to shards that are always the same."""

import base64
import csv
import functools
import hashlib
import http.server
import io
import json
import resource
import signal
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import zlib
from collections import defaultdict
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from skimage import data

from diffjscc.cli import main
from diffjscc.train.openimages import Options, lists, prepare
from diffjscc.train.openimages.convert import convert

HEADER = ["ImageID", "Subset", "OriginalURL", "OriginalLandingURL", "License", "AuthorProfileURL", "Author", "Title"]
HEADER += ["OriginalSize", "OriginalMD5", "Thumbnail300KURL", "Rotation"]
LIST = "/train/train-images-boxable-with-rotation.csv"
SMALL = {"min_side": 48, "resize": 64, "shard_size": 5, "count": 13, "timeout": 2.0, "backoff": 0.001, "workers": 4}
ASTRONAUT = data.astronaut()


def image_id(number):
    return hashlib.sha256(str(number).encode()).hexdigest()[:16]


@functools.cache
def photograph(number, width=96, height=72, format="JPEG"):
    pixels = ASTRONAUT[3 * number : 3 * number + height, 5 * number : 5 * number + width]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format)
    return file.getvalue()


def row(identity, **values):
    about = {
        "ImageID": identity,
        "Subset": "train",
        "OriginalURL": f"https://farm.example/{identity}_o.jpg",
        "OriginalLandingURL": f"https://photos.example/{identity}",
        "License": "https://creativecommons.org/licenses/by/2.0/",
        "Author": "Zoë, the author",
        "Title": 'A "title"\nin two lines',
        "OriginalSize": "999999",
        "OriginalMD5": base64.b64encode(hashlib.md5(identity.encode()).digest()).decode(),
        "Rotation": "0.0",
    }
    return {**about, **values}


def list_of(rows):
    file = io.StringIO()
    writer = csv.DictWriter(file, HEADER, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


class Bucket(http.server.ThreadingHTTPServer):
    """Serves ``files`` by path, with byte ranges. ``faults`` by path are served first, one per request; a fault repeats if alone.

    before  is called with each path before it is answered
    """

    daemon_threads = True

    def __init__(self, address=("127.0.0.1", 0)):
        super().__init__(address, _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.reset()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def reset(self):
        self.files = {f"/train/{image_id(number)}.jpg": photograph(number) for number in range(40)}
        self.files[LIST] = list_of(row(image_id(number)) for number in range(40))
        self.headers, self.faults, self.requests = defaultdict(dict), {}, []
        self.before = lambda path: None
        self.busy = self.busiest = 0
        self.patient = False

    def paths(self):
        return [path for path, _ in self.requests]

    def close(self):
        self.shutdown()
        self.thread.join()
        self.server_close()

    def handle_error(self, request, client_address):
        """Clients that are killed are what these tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        bucket = self.server
        bucket.requests.append((self.path, self.headers.get("Range")))
        bucket.before(self.path)
        self.answer()

    def answer(self):
        bucket = self.server
        faults = bucket.faults.get(self.path)
        if faults:
            fault = faults.pop(0) if len(faults) > 1 else faults[0]
            if fault is not None:
                return fault(self)
        content = bucket.files.get(self.path)
        if content is None:
            return answer(404, b"no such key")(self)
        self.whole(content)

    def whole(self, content, cut=False):
        """The file, or what was asked of it; ``cut``: the connection breaks after half of that."""
        headers, status, first = self.server.headers[self.path], 200, 0
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range") == headers.get("ETag"):
            first, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
        if status == 206 and first >= len(content):
            return answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})(self)
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first : first + (len(content) - first) // 2] if cut else content[first:])
        self.close_connection = cut


def answer(status, body=b"", headers=()):
    def fault(handler):
        handler.send_response(status)
        for name, value in dict(headers).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return fault


def cut_off(handler):
    handler.whole(handler.server.files[handler.path], cut=True)


def hang_up(handler):
    handler.close_connection = True


def chunks_cut_off(handler):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"20\r\n" + handler.server.files[handler.path][:16])
    handler.close_connection = True


def drip(handler):
    """A byte now and then: never a pause as long as the time limit, and never done."""
    content = handler.server.files[handler.path]
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    end = time.monotonic() + 5
    for byte in content:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.02)
        if time.monotonic() > end:
            handler.server.patient = True
            break
    handler.close_connection = True


def say_nothing(handler):
    handler.rfile.read(1)
    handler.close_connection = True


HTML = answer(200, b"<!DOCTYPE html><html><body>Sign in to the network</body></html>", {"Content-Type": "text/html"})


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NO_PROXY", "127.0.0.1")
        server = Bucket()
        yield server
        server.close()


@pytest.fixture
def bucket(server):
    """Serves 40 images and their list, without any fault."""
    server.reset()
    return server


@pytest.fixture(scope="module")
def calm(server, tmp_path_factory):
    """What comes out of that bucket when nothing happens."""
    server.reset()
    folder = tmp_path_factory.mktemp("calm") / "out"
    prepare(folder, options(server))
    return folder


def options(server, /, **values):
    return Options(**{**SMALL, "lists": server.url, "bucket": server.url, **values})


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def members(folder):
    """All members of all shards: [(name, bytes)]."""
    found = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            found += [(m.name, tar.extractfile(m).read()) for m in tar]
    return found


def stored(folder):
    return [name.partition(".")[0] for name, _ in members(folder) if not name.endswith(".json")]


def skipped(folder):
    with open(folder / "skipped.csv", newline="", encoding="utf-8") as file:
        return {line["ImageID"]: (line["Reason"], line["Detail"]) for line in csv.DictReader(file)}


@contextmanager
def one_line():
    """The block raises ValueError, and its message is a single line."""
    with pytest.raises(ValueError) as caught:
        yield caught
    assert "\n" not in str(caught.value)


# What comes out


def test_a_sample_becomes_shards_with_manifest_and_credits(tmp_path, bucket):
    summary = prepare(tmp_path / "out", options(bucket))
    assert (summary.images, summary.shards, summary.missing, summary.skipped) == (13, 3, 0, {})
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["complete"] and manifest["images"] == 13
    assert manifest["list"]["sha256"] == hashlib.sha256(bucket.files[LIST]).hexdigest()
    assert manifest["options"]["resize"] == 64
    assert [shard["images"] for shard in manifest["shards"]] == [5, 5, 3]
    for shard in manifest["shards"]:
        content = (tmp_path / "out" / shard["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])
    assert sorted(tree(tmp_path / "out")) == ["CREDITS.csv", "manifest.json", "skipped.csv"] + [
        f"train-{i:06}.tar" for i in range(3)
    ]
    assert not (tmp_path / "out" / ".work").exists()

    pairs = members(tmp_path / "out")
    for (name, content), (about_name, about) in zip(pairs[::2], pairs[1::2]):
        key, suffix = name.split(".")
        about = json.loads(about)
        assert (suffix, about_name) == ("jpg", f"{key}.json")
        assert about["author"] == "Zoë, the author" and about["license"].endswith("by/2.0/")
        assert about["url"] == f"https://farm.example/{key}_o.jpg"
        assert about["original_md5"] == hashlib.md5(key.encode()).hexdigest()
        assert about["downloaded_md5"] == hashlib.md5(bucket.files[f"/train/{key}.jpg"]).hexdigest()
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (64, 48) == (about["width"], about["height"])
            original = Image.open(io.BytesIO(bucket.files[f"/train/{key}.jpg"])).resize((64, 48), Image.Resampling.LANCZOS)
            assert np.abs(np.asarray(image, float) - np.asarray(original, float)).mean() < 3
    with open(tmp_path / "out" / "CREDITS.csv", newline="", encoding="utf-8") as file:
        credits = list(csv.DictReader(file))
    assert [line["ImageID"] for line in credits] == stored(tmp_path / "out")
    assert credits[0]["Author"] == "Zoë, the author" and credits[0]["Title"] == 'A "title"\nin two lines'
    assert credits[0]["URL"].startswith("https://photos.example/")


def test_the_sample_depends_on_the_seed_alone(tmp_path, bucket, calm):
    prepare(tmp_path / "again", options(bucket, workers=1))
    prepare(tmp_path / "other", options(bucket, seed=1))
    prepare(tmp_path / "more", options(bucket, count=20))
    assert tree(tmp_path / "again") == tree(calm)
    assert set(stored(tmp_path / "other")) != set(stored(calm))
    # A smaller sample is the beginning of a larger one, and not of the list.
    assert stored(tmp_path / "more")[:13] == stored(calm)
    assert set(stored(calm)) != {image_id(number) for number in range(13)}


@pytest.mark.parametrize("format, kind", [("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_images_are_stored_in_the_format_asked_for_and_never_enlarged(tmp_path, bucket, format, kind):
    prepare(tmp_path / "out", options(bucket, format=format, resize=200, count=2))
    name, content = members(tmp_path / "out")[0]
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size, name.endswith(f".{format}")) == (kind, (96, 72), True)


def test_quality_decides_the_size(tmp_path, bucket):
    sizes = [prepare(tmp_path / str(q), options(bucket, quality=q, count=5, resize=0)).bytes for q in (30, 95)]
    assert sizes[0] < 0.7 * sizes[1]


def test_without_a_count_all_of_the_split_is_prepared(tmp_path, bucket):
    others = [row(image_id(number), Subset="test") for number in range(20, 30)]
    twice = [row(image_id(number)) for number in range(8)]
    bucket.files[LIST] = list_of([*others, *twice, *twice, row("../../etc/passwd"), {"ImageID": ""}])
    summary = prepare(tmp_path / "out", options(bucket, count=None))
    assert sorted(stored(tmp_path / "out")) == sorted(image_id(number) for number in range(8))
    assert summary.images == 8
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["list"]["ignored"] == 12


CORNER = np.zeros((80, 120, 3), np.uint8)
CORNER[:40, :60] = 255  # white where the upright image begins


@pytest.mark.parametrize(
    "rotation, exif, turned",
    [
        ("0.0", 1, 0),
        ("", 1, 0),
        ("nan", 1, 0),
        ("90.0", 1, 90),
        ("180.0", 1, 180),
        ("270.0", 1, 270),
        ("nan", 6, 270),
        ("0.0", 8, 90),
        ("270.0", 6, 270),  # the list and EXIF tell the same turn: it is made once
        ("45", 1, 0),
    ],
)
def test_images_are_stored_upright(rotation, exif, turned):
    file = io.BytesIO()
    orientation = Image.Exif()
    orientation[0x0112] = exif
    Image.fromarray(CORNER).save(file, "JPEG", quality=95, exif=orientation)
    degrees = lists.Row("", "", "", "", "", "", rotation_text=rotation).rotation
    converted = convert(file.getvalue(), degrees, min_side=48, resize=0, format="jpg", quality=95)
    expected = np.rot90(CORNER, turned // 90)
    with Image.open(io.BytesIO(converted.data)) as image:
        assert image.getexif().get(0x0112, 1) == 1
        pixels = np.asarray(image, float)
    assert pixels.shape == expected.shape and np.abs(pixels - expected).mean() < 3


# Images that cannot be used


def bomb():
    """A PNG of a few hundred bytes that claims 60000×60000 pixels."""
    content = bytearray(photograph(0, format="PNG")[:200])
    content[16:24] = (60000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    "content, reason, detail",
    [
        (photograph(1)[:900], "damaged", "image file is truncated"),
        (b"\xff\xd8\xff" + bytes(500), "damaged", "not an image"),
        (b"", "damaged", "not an image"),
        (b"<html>sign in</html>", "damaged", "not an image"),
        (bomb(), "too large", "bomb"),
        (photograph(1, 300, 40), "too small", "300×40 pixels"),
        (None, "gone", "HTTP 404"),
    ],
)
def test_an_image_that_cannot_be_used_is_listed_and_replaced(tmp_path, bucket, calm, content, reason, detail):
    victim = stored(calm)[3]
    bucket.files[f"/train/{victim}.jpg"] = content
    summary = prepare(tmp_path / "out", options(bucket))
    assert (summary.images, summary.skipped) == (13, {reason: 1})
    listed = skipped(tmp_path / "out")[victim]
    assert listed[0] == reason and detail in listed[1]
    # The others keep their order, and the next candidate comes last.
    assert stored(tmp_path / "out")[:12] == [identity for identity in stored(calm) if identity != victim]


def test_a_list_that_ends_early_is_said(tmp_path, bucket, capsys):
    assert prepare(tmp_path / "a", options(bucket, count=50)).missing == 10
    command = ["data", "openimages", "--out", tmp_path / "b", "--lists", bucket.url, "--bucket", bucket.url]
    assert main([*map(str, command), "--count", "41", "--min-side", "48"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "diffjscc: only 40 of --count 41 images: the list ended"


def test_no_image_is_downloaded_in_vain_and_no_more_than_workers_at_once(tmp_path, bucket):
    lock = threading.Lock()

    def slowly(handler):
        with lock:
            bucket.busy += 1
            bucket.busiest = max(bucket.busy, bucket.busiest)
        time.sleep(0.01)
        with lock:
            bucket.busy -= 1
        handler.whole(bucket.files[handler.path])

    bucket.faults = {path: [slowly] for path in bucket.files}
    prepare(tmp_path / "out", options(bucket, workers=3))
    assert 2 <= bucket.busiest <= 3
    assert len(bucket.requests) == 1 + 13


def test_originals_must_have_the_md5_of_the_list(tmp_path, bucket):
    rows = []
    for number in range(6):
        content = photograph(number)
        bucket.files[f"/originals/{number}"] = content
        digest = hashlib.md5(content if number else b"what was there in 2016").digest()
        rows.append(
            row(image_id(number), OriginalURL=f"{bucket.url}/originals/{number}", OriginalMD5=base64.b64encode(digest).decode())
        )
    bucket.files[LIST] = list_of(rows)
    summary = prepare(tmp_path / "out", options(bucket, originals=True, count=None, retries=1))
    assert (summary.images, summary.skipped) == (5, {"checksum": 1})
    assert skipped(tmp_path / "out")[image_id(0)][1].startswith("MD5 is ")
    assert bucket.paths().count("/originals/0") == 2


def test_a_copy_of_the_originals_size_must_be_the_original(tmp_path, bucket):
    bucket.files[LIST] = list_of(
        row(image_id(number), OriginalSize=str(len(photograph(number)) + (number != 0))) for number in range(6)
    )
    assert prepare(tmp_path / "out", options(bucket, count=None, retries=0)).skipped == {"checksum": 1}
    assert image_id(0) in skipped(tmp_path / "out")


# A bucket that fails


@pytest.mark.parametrize(
    "faults",
    [
        [answer(500), answer(503, b"slow down", {"Retry-After": "0"}), answer(429)],
        [cut_off, hang_up],
        [chunks_cut_off],
        [drip],
        [say_nothing],
        [answer(302, b"", {"Location": "/elsewhere.jpg"})],
    ],
    ids=lambda faults: "-".join(getattr(fault, "__name__", "") for fault in faults),
)
def test_failures_that_pass_leave_no_trace(tmp_path, bucket, calm, faults):
    victim = f"/train/{stored(calm)[6]}.jpg"
    bucket.files["/elsewhere.jpg"] = bucket.files[victim]
    bucket.faults = {victim: [*faults, None]}
    bucket.requests.clear()
    prepare(tmp_path / "out", options(bucket, timeout=0.2))
    assert bucket.paths().count(victim) + bucket.paths().count("/elsewhere.jpg") >= len(faults) + 1
    assert not bucket.patient
    assert tree(tmp_path / "out") == tree(calm)


def test_bytes_other_than_s3_announces_are_downloaded_again(tmp_path, bucket, calm):
    victim = f"/train/{stored(calm)[6]}.jpg"
    right = bucket.files[victim]
    bucket.headers[victim] = {"ETag": f'"{hashlib.md5(right).hexdigest()}"', "x-amz-request-id": "1"}
    bucket.faults = {victim: [lambda handler: handler.whole(photograph(30)), None]}
    prepare(tmp_path / "out", options(bucket))
    assert tree(tmp_path / "out") == tree(calm)


def test_pauses_between_attempts_grow(tmp_path, bucket, calm):
    victim = f"/train/{stored(calm)[0]}.jpg"
    bucket.faults = {victim: [answer(500), answer(500), answer(500), None]}
    times = []
    bucket.before = lambda path: times.append(time.monotonic()) if path == victim else None
    prepare(tmp_path / "out", options(bucket, count=1, backoff=0.04))
    pauses = np.diff(times)
    assert len(pauses) == 3
    # 0.04, 0.08 and 0.16 s, each times 0.5 to 1.5.
    assert all(pause >= 0.02 * 2**attempt for attempt, pause in enumerate(pauses))


def test_an_image_whose_server_has_errors_is_skipped(tmp_path, bucket, calm):
    for place in (0, 7):
        bucket.faults[f"/train/{stored(calm)[place]}.jpg"] = [answer(500)]
    summary = prepare(tmp_path / "out", options(bucket, retries=1))
    assert (summary.images, summary.skipped) == (13, {"unreachable": 2})
    assert set(skipped(tmp_path / "out").values()) == {("unreachable", "HTTP 500")}
    # The only image that is wanted is out of order: the one after it tells that the server is not.
    assert prepare(tmp_path / "one", options(bucket, retries=0, count=1)).skipped == {"unreachable": 1}


def test_an_image_gets_another_attempt_once_the_server_is_back(tmp_path, bucket, calm):
    """A short outage must not decide which images are taken: the last attempt comes after another image was answered."""
    for place in (0, 7, 12):
        bucket.faults[f"/train/{stored(calm)[place]}.jpg"] = [answer(500), answer(500), None]
    prepare(tmp_path / "out", options(bucket, retries=1))
    assert tree(tmp_path / "out") == tree(calm)


def test_a_lost_network_ends_the_run_in_one_line_and_the_next_run_goes_on(tmp_path, bucket, calm):

    def unplug(path):
        if len(bucket.requests) == 10:
            bucket.before = lambda path: None
            bucket.faults = {path: [hang_up] for path in bucket.files}

    bucket.requests.clear()
    bucket.before = unplug
    with one_line() as caught:
        prepare(tmp_path / "out", options(bucket, retries=1, workers=1))
    assert "(attempt 2 of 2), and other images do not come either: check the network" in str(caught.value)
    assert "5 images in 1 shard kept; the same command goes on from there" in str(caught.value)
    bucket.faults = {}
    prepare(tmp_path / "out", options(bucket, retries=1, workers=1))
    assert tree(tmp_path / "out") == tree(calm)


def test_no_network_at_all_is_one_line(tmp_path, bucket):
    dead = Bucket()
    dead.close()
    with one_line() as caught:
        prepare(tmp_path / "a", options(bucket, lists=dead.url, retries=1))
    assert "Connection refused (attempt 2 of 2): check the network and --lists" in str(caught.value)
    with one_line() as caught:
        prepare(tmp_path / "b", options(bucket, bucket=dead.url, retries=1))
    assert "Connection refused (attempt 2 of 2), and other images do not come either" in str(caught.value)


def test_a_wrong_bucket_is_noticed_after_a_hundred_images(tmp_path, bucket):
    bucket.files = {LIST: list_of(row(image_id(number)) for number in range(300))}
    with one_line() as caught:
        prepare(tmp_path / "out", options(bucket, bucket=f"{bucket.url}/wrong"))
    assert "100 images in a row could not be used" in str(caught.value) and "gone: HTTP 404: check --bucket" in str(caught.value)
    assert len(bucket.requests) < 150


def test_a_limit_that_no_image_passes_is_one_line(tmp_path, bucket):
    with one_line() as caught:
        prepare(tmp_path / "out", options(bucket, min_side=80))
    assert "none of the 40 images of the list could be used (40 too small)" in str(caught.value)


# Lists


@pytest.mark.parametrize(
    "content, message",
    [
        (b"<!DOCTYPE html>\n<html>\n<body>Sign in</body></html>", "not a list of Open Images: it begins with '<!DOCTYPE html>'"),
        (b"", "not a list of Open Images"),
        (bytes(range(256)) * 9, "not a list of Open Images"),
        (b"a\rb" * 99, "not a list of Open Images: it begins with 'a'"),
        (b"ImageID,Source,LabelName\n1,a,b\n", "lacks the columns OriginalURL, OriginalLandingURL, License, Author, Title"),
        (list_of([]), "no rows of split 'train'"),
        (list_of([row("1", Subset="test")]), "no rows of split 'train' (1 others)"),
        (list_of([row("1")]) + b'2,train,"' + b"x" * 200_000, "damaged at line"),
        (None, "HTTP 404: check --lists"),
    ],
)
def test_what_is_not_a_list_is_one_line(tmp_path, bucket, content, message):
    bucket.files[LIST] = content
    with one_line() as caught:
        prepare(tmp_path / "out", options(bucket))
    assert message in str(caught.value) and bucket.url + LIST in str(caught.value)


def test_lists_may_lie_in_a_folder(tmp_path, bucket, calm):
    (tmp_path / "lists" / "train").mkdir(parents=True)
    path = tmp_path / "lists" / LIST[1:]
    path.write_bytes(b"\xef\xbb\xbf" + bucket.files[LIST])
    for number, where in enumerate((tmp_path / "lists", path, path.parent)):
        prepare(tmp_path / str(number), options(bucket, lists=str(where)))
        assert stored(tmp_path / str(number)) == stored(calm)
    with one_line() as caught:
        prepare(tmp_path / "x", options(bucket, lists=str(calm)))
    assert "holds no train-images-boxable-with-rotation.csv: download it" in str(caught.value)


def test_a_list_that_is_cut_off_is_continued_by_ranges(tmp_path, bucket):
    size = len(bucket.files[LIST])
    bucket.headers[LIST] = {"ETag": '"one"'}
    bucket.faults = {LIST: [cut_off, cut_off, None]}
    prepare(tmp_path / "out", options(bucket, retries=0, count=1))
    ranges = [asked for path, asked in bucket.requests if path == LIST]
    # Half of all, half of the rest, the rest.
    assert ranges == [None, f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 2}-"]
    used = json.loads((tmp_path / "out" / "manifest.json").read_text())["list"]
    assert used["sha256"] == hashlib.sha256(bucket.files[LIST]).hexdigest()


def test_a_list_that_changes_during_the_download_begins_anew(tmp_path, bucket):
    bucket.headers[LIST] = {"ETag": '"one"'}

    def change(handler):
        cut_off(handler)
        handler.server.files[LIST] = list_of(row(image_id(number), Title="other") for number in range(40))
        handler.server.headers[LIST] = {"ETag": '"two"'}

    bucket.faults = {LIST: [change, None]}
    prepare(tmp_path / "out", options(bucket, count=1))
    assert json.loads(members(tmp_path / "out")[1][1])["title"] == "other"
    used = json.loads((tmp_path / "out" / "manifest.json").read_text())["list"]
    assert used["sha256"] == hashlib.sha256(bucket.files[LIST]).hexdigest()


def shuffled(tmp_path, content, name):
    (tmp_path / f"{name}.csv").write_bytes(content)
    return lists.ShuffledList.build(tmp_path / name, tmp_path / f"{name}.csv", name, Options(), lambda done: None)


def test_the_order_does_not_depend_on_how_many_files_it_is_sorted_in(tmp_path, monkeypatch):
    content = list_of(row(image_id(number)) for number in range(500))
    one = shuffled(tmp_path, content, "one")
    monkeypatch.setattr(lists, "_FILE_BYTES", 10_000)
    many = shuffled(tmp_path, content, "many")
    order = [candidate.image_id for _, candidate in one.candidates(0)]
    assert order == [candidate.image_id for _, candidate in many.candidates(0)]
    assert sorted(order) == sorted(image_id(number) for number in range(500)) != order
    assert len(list((tmp_path / "many").iterdir())) > 10
    for position in (1, 77, 499, 500):
        assert list(many.candidates(position)) == list(many.candidates(0))[position:]
    places = {image_id(number): number for number in range(500)}
    assert abs(np.corrcoef([places[identity] for identity in order], range(500))[0, 1]) < 0.2


def test_memory_does_not_grow_with_the_list(tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "_FILE_BYTES", 200_000)
    peaks = []
    for rows in (1_500, 9_000):
        content = list_of(row(image_id(number)) for number in range(rows))
        (tmp_path / "list.csv").write_bytes(content)
        tracemalloc.start()
        made = lists.ShuffledList.build(tmp_path / "order", tmp_path / "list.csv", "list", Options(), lambda done: None)
        assert sum(1 for _ in made.candidates(0)) == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] < len(content) / 2


# Being interrupted


def command(out, bucket, *more):
    flags = {"lists": bucket.url, "bucket": bucket.url, "min-side": 48, "resize": 64, "shard-size": 5, "count": 13, "workers": 4}
    return [sys.executable, "-m", "diffjscc.cli", "data", "openimages", "--out", str(out)] + [
        text for name, value in flags.items() for text in (f"--{name}", str(value))
    ] + [*more]  # fmt: skip


def killed_at(moment, out, bucket):
    """Runs the command until so many images were asked for (0: until half of the list was there), or to its end."""
    started, asked = threading.Event(), []

    def before(path):
        started.wait()
        if path != LIST:
            asked.append(path)
            if len(asked) == moment:
                process.kill()

    def kill_in_the_list(handler):
        cut_off(handler)
        started.wait()
        process.kill()

    bucket.before, bucket.faults = before, {LIST: [kill_in_the_list if moment == 0 else None]}
    process = subprocess.Popen(command(out, bucket), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    started.set()
    _, error = process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGKILL), error
    return process.returncode == 0


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path, bucket, calm):
    bucket.headers[LIST] = {"ETag": '"one"'}
    order, finished = stored(calm), {}
    for moment in (0, 1, 7, 12, 6, 99):
        bucket.requests.clear()
        complete = killed_at(moment, tmp_path / "out", bucket)
        # No finished shard was written, and none of its images downloaded, again.
        assert not {f"/train/{identity}.jpg" for identity in order[: 5 * len(finished)]} & set(bucket.paths())
        shards = {path.name: path.stat() for path in (tmp_path / "out").glob("*.tar")}
        shards = {name: (status.st_ino, status.st_mtime_ns) for name, status in shards.items()}
        assert finished.items() <= shards.items()
        finished = shards
    assert complete and tree(tmp_path / "out") == tree(calm)


class Interrupt(Exception):
    pass


def interrupted_at(tmp_path, bucket, images):
    """A folder whose run ended when so many images were stored."""

    def stop(progress):
        if progress.stage == "images" and progress.done == images:
            raise Interrupt

    with pytest.raises(Interrupt):
        prepare(tmp_path / "out", options(bucket), stop)


@pytest.mark.parametrize("images", [0, 1, 5, 7, 10, 12])
def test_an_interrupted_run_goes_on_after_its_last_finished_shard(tmp_path, bucket, images):
    for number in (2, 3, 11, 17, 25):
        bucket.files[f"/train/{image_id(number)}.jpg"] = None
    prepare(tmp_path / "calm", options(bucket))
    interrupted_at(tmp_path, bucket, images)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["images"] == images // 5 * 5
    assert not (tmp_path / "out" / ".work" / "shard.part").exists()
    done = []
    prepare(tmp_path / "out", options(bucket), lambda progress: done.append(progress.done) if progress.stage == "images" else None)
    assert done[0] == images // 5 * 5 and done[-1] == 13
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")


def test_a_kill_between_the_manifest_and_the_shards_name_loses_nothing(tmp_path, bucket, calm):
    interrupted_at(tmp_path, bucket, 10)
    (tmp_path / "out" / "train-000001.tar").rename(tmp_path / "out" / ".work" / "shard.part")
    for name in ("CREDITS.csv", "skipped.csv"):
        with open(tmp_path / "out" / name, "ab") as file:
            file.write(b"lines that the manifest does not count\n" * 99)
    bucket.requests.clear()
    prepare(tmp_path / "out", options(bucket))
    assert len(bucket.requests) == 3
    assert tree(tmp_path / "out") == tree(calm)


def test_a_complete_folder_is_left_alone(tmp_path, bucket):
    first = prepare(tmp_path / "out", options(bucket))
    before = tree(tmp_path / "out")
    bucket.requests.clear()
    second = prepare(tmp_path / "out", options(bucket, workers=2, timeout=5.0))
    assert (second.images, second.shards, second.bytes) == (first.images, first.shards, first.bytes)
    assert not bucket.requests and tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"resize": 60}, "was begun with resize 64: give the same options"),
        ({"count": None, "shard_size": 6}, "was begun with count 13, shard-size 5"),
        ({"seed": 3}, "was begun with seed 0"),
        ({"bucket": "http://127.0.0.1:9"}, "was begun with bucket http://127.0.0.1"),
    ],
)
@pytest.mark.parametrize("images", [6, 13])
def test_other_options_in_the_same_folder_are_refused(tmp_path, bucket, changes, message, images):
    interrupted_at(tmp_path, bucket, images)
    before = tree(tmp_path / "out")
    with one_line() as caught:
        prepare(tmp_path / "out", options(bucket, **changes))
    assert message in str(caught.value)
    assert tree(tmp_path / "out") == before


def test_another_list_in_the_same_folder_is_refused(tmp_path, bucket):
    interrupted_at(tmp_path, bucket, 6)
    for path in (tmp_path / "out" / ".work" / "order").iterdir():
        path.unlink()
    bucket.files[LIST] = list_of(row(image_id(number)) for number in range(39))
    with one_line() as caught:
        prepare(tmp_path / "out", options(bucket))
    assert "was begun with another version of" in str(caught.value)


def test_a_folder_with_something_else_is_refused(tmp_path, bucket):
    (tmp_path / "notes.txt").write_text("mine")
    with one_line() as caught:
        prepare(tmp_path, options(bucket))
    assert "holds 'notes.txt' and no manifest.json" in str(caught.value)
    (tmp_path / "manifest.json").write_text("{}")
    with one_line() as caught:
        prepare(tmp_path, options(bucket))
    assert "not a manifest of" in str(caught.value)
    with one_line() as caught:
        prepare(tmp_path / "notes.txt", options(bucket))
    assert "notes.txt: File exists" in str(caught.value)


def test_a_missing_shard_is_refused(tmp_path, bucket):
    prepare(tmp_path / "out", options(bucket))
    (tmp_path / "out" / "train-000001.tar").unlink()
    with one_line() as caught:
        prepare(tmp_path / "out", options(bucket))
    assert "train-000001.tar: missing, or not" in str(caught.value)


def test_two_processes_do_not_prepare_the_same_folder(tmp_path, bucket):
    refused = []

    def second(progress):
        if progress.stage == "images" and progress.done == 3:
            with one_line() as caught:
                prepare(tmp_path / "out", options(bucket))
            refused.append(str(caught.value))

    prepare(tmp_path / "out", options(bucket), second)
    assert len(refused) == 1 and "another process is preparing data there" in refused[0]


@pytest.mark.parametrize("limit", [6_000, 20_000])
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(tmp_path, bucket, calm, limit):
    """The kernel refuses to let files grow; below the size of the list, and below that of a shard."""
    assert 6_000 < len(bucket.files[LIST]) < 20_000 < (calm / "train-000000.tar").stat().st_size

    def fill_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(command(tmp_path / "out", bucket), capture_output=True, text=True, preexec_fn=fill_disk)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert "out: File too large: make room; 0 images in 0 shards kept; the same command goes on from there" in last
    assert main(command(tmp_path / "out", bucket)[3:]) == 0
    assert tree(tmp_path / "out") == tree(calm)


# The command


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--count", "0"], "count 0 is out of range: give at least 1"),
        (["--count", "many"], "argument --count: invalid int value: 'many'"),
        (["--min-side", "8"], "min-side 8 is out of range: give 32 to 65535"),
        (["--resize", "8"], "resize 8 is out of range: give 32 to 16383 (or 0 to keep the size)"),
        (["--quality", "101"], "quality 101 is out of range: give 1 to 100"),
        (["--shard-size", "0"], "shard-size 0 is out of range"),
        (["--workers", "0"], "workers 0 is out of range: give 1 to 256"),
        (["--timeout", "nan"], "timeout nan is out of range"),
        (["--retries", "-1"], "retries -1 is out of range: give 0 to 100"),
        (["--backoff", "-1"], "backoff -1.0 is out of range: give 0 to 60"),
        (["--split", "val"], "split 'val' is not one of train, validation, test"),
        (["--format", "bmp"], "format 'bmp' is not one of jpg, webp, png"),
        (["--bucket", "s3://open-images-dataset"], "bucket 's3://open-images-dataset' is not an address"),
        (["--bucket", "https://"], "bucket 'https:' is not an address"),
        (["--lists", "ftp://somewhere"], "lists 'ftp://somewhere' is neither"),
        (["--lists", "/no/such/folder"], "lists '/no/such/folder' is neither an https:// or http:// address nor a folder or file"),
        (["--seed", "-1"], "seed -1 is out of range: give 0 to"),
    ],
)
def test_bad_options_are_one_line_and_exit_2(tmp_path, capsys, arguments, message):
    try:
        code = main(["data", "openimages", "--out", str(tmp_path / "out"), *arguments])
    except SystemExit as error:  # argparse's own
        code = error.code
    assert code == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and message in error[0]
    assert not (tmp_path / "out").exists()


def test_the_command_shows_progress_and_a_summary(tmp_path, bucket, calm, capsys):
    bucket.files[f"/train/{stored(calm)[4]}.jpg"] = None
    done = subprocess.run(command(tmp_path / "out", bucket, "--json"), capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert (summary["images"], summary["shards"], summary["missing"], summary["skipped"]) == (13, 3, 0, {"gone": 1})
    assert summary["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert "image/s" in done.stderr and "13/13" in done.stderr and "download list: 100%" in done.stderr
    assert main(command(tmp_path / "out", bucket)[3:]) == 0
    text = capsys.readouterr().out
    assert "out: 13 images in 3 shards, " in text and text.endswith("skipped: 1 gone\n")


def test_a_missing_package_is_one_line(tmp_path):
    code = "import sys; sys.modules['requests'] = None; from diffjscc.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["data", "openimages", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    message = "diffjscc data needs requests, which is not installed: pip install 'diffjscc[train]'"
    assert done.stderr.splitlines() == [f"diffjscc: {message}"]
