"""`images` against a server that misbehaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("PIL", reason="the extra [clip] (Pillow) is not installed")

from hypothesis import given
from hypothesis import strategies as st

from recbole_prism.errors import PRISMError
from recbole_prism.prepare import download_images, network
from recbole_prism.prepare.download import retry_after
from recbole_prism.prepare.files import sha256
from tests.prepare.misbehaving import serve

QUICK = {"backoff": 0.05, "attempts": 2, "total_timeout": 1.5, "read_timeout": 1.0, "max_wait": 3, "progress": False}


@pytest.fixture
def server():
    with serve() as running:
        yield running


@pytest.fixture
def dataset(tmp_path):
    """dataset(urls) writes the addresses and returns a function that downloads them."""

    def write(urls):
        folder = tmp_path / "d"
        folder.mkdir(exist_ok=True)
        lines = [json.dumps({"item_id": f"i{n}", "url": url}) for n, url in enumerate(urls)]
        (folder / "d.images.jsonl").write_text("\n".join(lines) + "\n")

        def run(**options):
            return download_images("d", data_path=tmp_path, **{**QUICK, "allow_private": True, **options})

        run.folder = folder / "images"
        return run

    return write


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def reason(run, **options):
    """Why the only address failed."""
    assert run(**options)["counts"]["failed"] == 1
    (row,) = rows(run.folder / "failures.jsonl")
    assert row["item_id"] == "i0"
    return row["reason"]


def test_images_are_stored_by_content_and_indexed(server, dataset):
    run = dataset([server.url("ok/1"), server.url("ok/2"), server.url("ok/1"), server.url("moved")])
    assert run()["counts"] | {"local_files": 0} == {
        "addresses": 3, "at_hand_before": 0, "fetched": 3, "failed": 0, "failed_for_good": 0, "local_files": 0
    }  # fmt: skip
    for row in rows(run.folder / "index.jsonl"):
        assert sha256(run.folder / row["file"]) == row["sha256"]
        assert row["file"].startswith(row["sha256"][:2] + "/") and (row["width"], row["height"]) == (40, 30)
    assert server.asked["/ok/1"] == 1


def test_a_second_run_fetches_only_what_is_missing(server, dataset):
    run = dataset([server.url("ok/1"), server.url("ok/2"), server.url("missing"), server.url("broken")])
    run()
    (run.folder / rows(run.folder / "index.jsonl")[0]["file"]).unlink()
    before = dict(server.asked)
    run()
    again = {path: server.asked[path] - count for path, count in before.items()}
    assert sorted(again.values()) == [0, 0, 1, 2]  # the removed file, and 503 twice; not 404, not what is at hand
    assert again["/missing"] == 0
    run(retry_all=True)
    assert server.asked["/missing"] == before["/missing"] + 1


@pytest.mark.parametrize(
    ("path", "expected", "asked"),
    [
        ("missing", "HTTP 404", 1),
        ("broken", "HTTP 503", 2),
        ("slow", "took longer than 1.5 s", 2),
        ("endless", "larger than 1000000 bytes", 1),
        ("huge", "larger than 1000000 bytes (1000000000000 announced)", 1),
        ("loop", "more than 5 redirects", 6),
        ("tofile", "refused: only plain http and https addresses, not 'file'", 1),
        ("page", "not an image: Content-Type text/html", 1),
        ("notimage", "not an image of a known format", 1),
        ("empty", "empty file", 1),
        ("truncated", "connection:", 2),
        ("cut", "damaged: image file is truncated", 1),
        ("busyforlong", "HTTP 429; the server asks to wait 86400 s", 1),
    ],
)
def test_misbehaviour_ends_with_a_reason(server, dataset, path, expected, asked):
    assert reason(dataset([server.url(path)]), max_bytes=1_000_000).startswith(expected)
    assert server.asked[f"/{path}"] == asked


@pytest.mark.parametrize("path", ["flaky", "busy"])
def test_passing_trouble_is_overcome(server, dataset, path):
    run = dataset([server.url(path)])
    assert run()["counts"]["fetched"] == 1
    first, second = server.times[f"/{path}"]
    assert path == "flaky" or second - first >= 0.95  # Retry-After: 1


def test_retry_after_makes_the_whole_host_wait(server, dataset):
    run = dataset([server.url("busy"), *(server.url(f"ok/{n}") for n in range(5))])
    run(connections=1)
    assert min(time for n in range(5) for time in server.times[f"/ok/{n}"]) - server.times["/busy"][0] >= 0.95


def test_too_many_pixels_are_refused(server, dataset):
    assert reason(dataset([server.url("ok/1")]), max_pixels=1000) == "40 x 30 pixels, more than 1000"


def test_connections_per_host_are_bounded(dataset):
    with serve(delay=0.05) as server:
        run = dataset([server.url(f"ok/{n}") for n in range(20)])
        assert run(per_host=3)["counts"]["fetched"] == 20
        assert 2 <= server.most_active <= 3


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a.jpg",
        "file:///etc/passwd",
        "gopher://x/",
        "http://",
        "http://user:pw@127.0.0.1/a.jpg",
        "no",
        "http://x:port/a",
    ],
)
def test_other_schemes_are_refused(dataset, url):
    assert "refused" in reason(dataset([url])) or "not a web address" in reason(dataset([url]))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "10.0.0.1", "169.254.169.254", "0x7f.1", "[::ffff:127.0.0.1]"],
)
def test_private_addresses_are_refused_by_default(server, dataset, host):
    run = dataset([f"http://{host}:{server.server_port}/ok/1"])
    assert reason(run, allow_private=False).startswith("refused: private or local address")
    assert not server.asked


@pytest.mark.parametrize("path", ["toprivate", "tometadata"])
def test_redirect_to_a_private_address_is_refused(server, dataset, monkeypatch, path):
    real = network.is_public
    monkeypatch.setattr(network, "is_public", lambda address: address == "127.0.0.1" or real(address))
    assert reason(dataset([server.url(path)]), allow_private=False).startswith("refused: private or local address")


def test_a_public_name_with_a_private_address_is_refused(dataset, monkeypatch):
    async def getaddrinfo(self, host, port, **options):
        return [(2, 1, 6, "", ("93.184.216.34", port)), (2, 1, 6, "", ("192.168.0.1", port))]

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", getaddrinfo)
    assert "images.example.org is 192.168.0.1" in reason(
        dataset(["http://images.example.org/a.jpg"]), allow_private=False
    )


@pytest.mark.parametrize(
    ("address", "public"),
    [("8.8.8.8", True), ("2606:4700::1111", True), ("100.64.0.1", False), ("fe80::1%eth0", False), ("224.0.0.1", False),
     ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False), ("2002:a00:1::", False), ("::ffff:8.8.8.8", True)],
)  # fmt: skip
def test_public_addresses(address, public):
    assert network.is_public(address) is public


KILLED = """
import sys
sys.argv[0] = "recbole-prism"  # as from the command line: nothing registers with RecBole
from recbole_prism.prepare import download_images
download_images("d", data_path=sys.argv[1], allow_private=True, progress=False, per_host=2)
"""


def test_killed_in_the_middle_it_resumes(dataset, tmp_path):
    with serve(delay=0.1) as server:
        run = dataset([server.url(f"ok/{n}") for n in range(40)])
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
        index = run.folder / "index.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (index.exists() and len(index.read_bytes().splitlines()) > 5):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with open(index, "ab") as stream:
            stream.write(b'{"url": "http://half a li')
        server.delay = 0
        counts = run()["counts"]
        assert counts["at_hand_before"] >= 5 and counts["at_hand_before"] + counts["fetched"] == 40
        assert sum(server.asked.values()) <= 40 + 4
    assert len(rows(index)) == 40 and not list(run.folder.rglob("*.part"))


def test_an_index_cannot_point_outside(dataset, server, tmp_path):
    run = dataset([server.url("ok/1")])
    run.folder.mkdir(parents=True)
    line = {"url": server.url("ok/1"), "file": "../../../etc/passwd", "bytes": 1}
    (run.folder / "index.jsonl").write_text(json.dumps(line) + "\n[]\n")
    assert run()["counts"]["fetched"] == 1


def test_report_and_errors(server, dataset, tmp_path):
    run = dataset([server.url("ok/1"), server.url("missing")])
    run()
    report = json.loads((tmp_path / "d" / "d.report.json").read_text())["images"]
    assert report["reasons"] == {"HTTP 404": 1} and report["versions"]["httpx"] and report["inputs"]["images"]["sha256"]
    with pytest.raises(PRISMError, match="make it with `recbole-prism prepare`"):
        download_images("nothing", data_path=tmp_path)
    (tmp_path / "d" / "d.images.jsonl").write_text('{"url": "http://x"}\n')
    with pytest.raises(PRISMError, match="line 1: an object with a string 'item_id'"):
        run()


@given(st.text(max_size=30) | st.integers().map(str))
def test_retry_after_is_seconds_or_nothing(value):
    seconds = retry_after(value)
    assert seconds is None or 0 <= seconds < 1e10
