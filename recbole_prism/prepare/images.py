"""``images``: download what NAME.images.jsonl names into a content-addressed folder, resumably.

dataset/NAME/images/ab/abcdef...89.jpg    named by the SHA-256 of the bytes
dataset/NAME/images/index.jsonl           one line per address had: url, sha256, file, bytes, width, height
dataset/NAME/images/failures.jsonl        one line per address not had: url, reason, transient, item_id
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_prism.prepare.download import Failed, Hosts, Limits, fetch
from recbole_prism.prepare.files import DatasetFolder, add_to_report, atomic_write, describe_file, json_lines, versions
from recbole_prism.prepare.image_index import ImageIndex
from recbole_prism.prepare.network import make_client
from recbole_prism.prepare.pictures import SUFFIXES, Unusable, decode, pillow

MADE_BY = "make it with `recbole-prism prepare`"


def download_images(
    name: str, *, data_path: str | Path = "dataset", retry_all: bool = False, progress: bool = True, **limits: Any
) -> dict[str, Any]:
    """Fetch every address of ``NAME.images.jsonl`` that is not at hand and return the report's ``images`` section.

    Addresses that failed for good before (404, not an image, refused) are asked for again only with ``retry_all``;
    those that failed for a passing reason always are. ``limits``: the fields of ``download.Limits``.

    Raises:
        PRISMError: no NAME.images.jsonl, or a line of it is no object with an item_id; Pillow is missing.
    """
    pillow()
    folder = DatasetFolder(name, data_path)
    source = folder.existing("images.jsonl", MADE_BY)
    bounds = Limits(**limits)
    start = time.perf_counter()
    index = ImageIndex(folder.images)
    index.repair()
    given_up = {} if retry_all else {row["url"]: row for row in index.failures() if not row.get("transient", True)}
    wanted: dict[str, str] = {}
    n_local = 0
    for row in json_lines(source):
        if isinstance(row.get("url"), str):
            wanted.setdefault(row["url"], row["item_id"])
        else:
            n_local += 1
    at_hand = sum(index.has(url) for url in wanted)
    missing = [url for url in wanted if not index.has(url) and url not in given_up]
    bar = tqdm(total=len(missing), unit="img", desc=f"images of {name}", disable=None if progress else True)
    failures: dict[str, dict[str, Any]] = {url: row for url, row in given_up.items() if url in wanted}
    try:
        with index.open():
            asyncio.run(_fetch_all(missing, wanted, index, failures, bounds, bar))
    finally:
        bar.close()
        index.write_failures(failures.values())
    reasons = Counter(row["reason"].split(" (")[0] for row in failures.values())
    section = {
        "inputs": {"images": describe_file(source)},
        "options": dataclasses.asdict(bounds) | {"retry_all": retry_all},
        "counts": {
            "addresses": len(wanted),
            "at_hand_before": at_hand,
            "fetched": sum(index.has(url) for url in wanted) - at_hand,
            "failed": len(failures),
            "failed_for_good": sum(not row["transient"] for row in failures.values()),
            "local_files": n_local,
        },
        "reasons": dict(reasons.most_common(50)),
        "versions": versions("httpx", "httpcore", "pillow"),
        "seconds": round(time.perf_counter() - start, 3),
    }
    add_to_report(folder, "images", section)
    return section


async def _fetch_all(
    urls: list[str],
    items: dict[str, str],
    index: ImageIndex,
    failures: dict[str, dict[str, Any]],
    limits: Limits,
    bar: Any,
) -> None:
    """Workers take addresses from one iterator, so that only ``connections`` bodies are in memory at a time."""
    hosts = Hosts(limits.per_host)
    queue = iter(urls)
    client = make_client(
        allow_private=limits.allow_private,
        connections=limits.connections,
        connect_timeout=limits.connect_timeout,
        read_timeout=limits.read_timeout,
    )
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as decoders:

        async def work() -> None:
            loop = asyncio.get_running_loop()
            for url in queue:
                try:
                    body = await fetch(client, url, limits, hosts)
                    facts = await loop.run_in_executor(
                        decoders, _check_and_store, index.folder, body, limits.max_pixels
                    )
                    index.add({"url": url, **facts})
                except (Failed, Unusable) as error:
                    failures[url] = {
                        "url": url,
                        "item_id": items[url],
                        "reason": str(error),
                        "transient": getattr(error, "transient", False),
                    }
                bar.update()

        async with client:
            await asyncio.gather(*(work() for _ in range(min(limits.connections, max(len(urls), 1)))))


def _check_and_store(folder: Path, body: bytes, max_pixels: int) -> dict[str, Any]:
    """Decode to be sure, then keep the bytes as they came under their own checksum. Raises Unusable."""
    picture, kind = decode(body, max_pixels)
    digest = hashlib.sha256(body).hexdigest()
    relative = f"{digest[:2]}/{digest}.{SUFFIXES[kind]}"
    path = folder / relative
    if not path.is_file() or path.stat().st_size != len(body):
        with atomic_write(path, "wb", sync=False) as stream:  # the index notices a file of another size
            stream.write(body)
    return {"sha256": digest, "file": relative, "bytes": len(body), "width": picture.width, "height": picture.height}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the dataset")
    parser.add_argument("--data-path", default="dataset", help="folder of all datasets (default: dataset)")
    helps = {
        "connections": "at once, all hosts together",
        "per_host": "at once, one host",
        "connect_timeout": "seconds",
        "read_timeout": "seconds between two pieces of a body",
        "total_timeout": "seconds for one attempt",
        "attempts": "for an address that may pass",
        "backoff": "seconds before the second attempt; doubles",
        "max_wait": "seconds; a longer Retry-After is a failure",
        "max_redirects": "for one address",
        "max_bytes": "of one image",
        "max_pixels": "of one image",
    }
    for limit in dataclasses.fields(Limits):
        if limit.name in helps:
            option = f"--{limit.name.replace('_', '-')}"
            kind = type(limit.default)
            parser.add_argument(option, type=kind, default=limit.default, help=f"{helps[limit.name]} ({limit.default})")
    parser.add_argument("--allow-private", action="store_true", help="also addresses of private networks (intranets)")
    parser.add_argument("--retry-all", action="store_true", help="ask again also for what failed for good before")


def main(args: argparse.Namespace) -> int:
    limits = {limit.name: getattr(args, limit.name) for limit in dataclasses.fields(Limits)}
    report = download_images(args.name, data_path=args.data_path, retry_all=args.retry_all, **limits)
    counts = report["counts"]
    print(
        f"{counts['addresses']:,} addresses: {counts['at_hand_before']:,} at hand before, "
        f"{counts['fetched']:,} fetched, {counts['failed']:,} failed; {report['seconds']} s"
    )
    for reason, count in report["reasons"].items():
        print(f"  {count:>8,}  {reason}")
    if counts["failed"]:
        print(f"reasons one by one: {DatasetFolder(args.name, args.data_path).images / 'failures.jsonl'}")
    return 0
