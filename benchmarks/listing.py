"""Listing at scale: page after page against many ranges at once, and what a million objects take here.

    python -m benchmarks.listing --keys 200000 --objects 1000000

The one asks an S3 endpoint on loopback that answers late (20 ms, unless `--latency` says otherwise), in pages of 1,000
keys. The other gives the same code pages of 1,000 synthetic objects without a store: seconds and peak memory of what is
ours, in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from bisect import bisect_right
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from benchmarks.parts.slow_store import LATENCY
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.schemas.object_uri import Scheme

PAGE = 1000


def list_numbers(objects: int) -> int:
    """List as many numbered keys, in one folder, without a network; return how many there were."""
    modified = datetime(2026, 1, 1, tzinfo=UTC)

    async def page(**asked: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        begins = asked.get("ContinuationToken") or asked.get("StartAfter", "")
        if "Delimiter" in asked:
            return {}
        low, high = 0, objects
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if _key(middle) <= begins else (low, middle)
        keys = [_key(number) for number in range(low, min(low + PAGE, objects))]
        more = {"IsTruncated": True, "NextContinuationToken": keys[-1]} if low + PAGE < objects else {}
        entries = [
            {"Key": key, "Size": len(key), "ETag": f'"{hash(key) & (2**128 - 1):032x}"', "LastModified": modified}
            for key in keys
        ]
        return {"Contents": entries, **more}

    store = ObjectStore()
    object.__setattr__(store.backend(Scheme.S3), "_list_page", page)
    return store.inventory(["s3://bench/2026/**"], outside="s3://bench/catalog").height


def _key(number: int) -> str:
    return f"2026/camera-07/{number:012d}-frontal-view.jpg"


def measure_memory(objects: int) -> None:
    """Print seconds and memory of a listing without a store."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    began = time.perf_counter()
    listed = list_numbers(objects)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{listed:,} objects: {seconds:.1f} s, peak {peak:.2f} GiB, of which {before:.2f} before it began")


class Lists(BaseHTTPRequestHandler):
    """ListObjectsV2 over sorted keys, each answer late; moto looks at every key for every page."""

    protocol_version = "HTTP/1.1"
    keys: ClassVar[list[str]] = []
    latency: ClassVar[float] = LATENCY

    def do_GET(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        time.sleep(self.latency)
        prefix = asked.get("prefix", "")
        begins = max(asked.get("continuation-token") or asked.get("start-after", ""), prefix)
        low, most = bisect_right(self.keys, begins), int(asked.get("max-keys", PAGE))
        more = "<IsTruncated>false</IsTruncated>"
        if "delimiter" in asked:
            tails = (key[len(prefix) :].partition("/") for key in self.keys[low:] if key.startswith(prefix))
            folders = list(dict.fromkeys(prefix + name + "/" for name, slash, _ in tails if slash))[:most]
            inner = "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in folders)
        else:
            page = self.keys[low : low + most]
            facts = '<Size>9</Size><ETag>"0123456789abcdef"</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified>'
            inner = "".join(f"<Contents><Key>{key}</Key>{facts}</Contents>" for key in page)
            if low + most < len(self.keys):
                more = f"<NextContinuationToken>{page[-1]}</NextContinuationToken><IsTruncated>true</IsTruncated>"
        bucket = urlsplit(self.path).path.strip("/")
        body = f"<ListBucketResult><Name>{bucket}</Name>{more}{inner}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def serve(keys: list[str], latency: float, port: Any) -> None:
    """Answer until killed."""
    Lists.keys, Lists.latency = sorted(keys), latency
    server = ThreadingHTTPServer(("127.0.0.1", 0), Lists)
    port.value = server.server_port
    server.serve_forever()


def measure_requests(keys: int, latency: float) -> None:
    """Print seconds against a late endpoint, with one request at a time and with as many as the block allows."""
    os.environ.update(AWS_ACCESS_KEY_ID="bench", AWS_SECRET_ACCESS_KEY="bench")
    layouts = {
        "one flat folder": [f"in/{k:08d}.jpg" for k in range(keys)],
        "folders of 2,500": [f"in/{k // 2500:03d}/{k:08d}.jpg" for k in range(keys)],
    }
    for name, names in layouts.items():
        port = multiprocessing.Value("i", 0)
        process = multiprocessing.Process(target=serve, args=(names, latency, port), daemon=True)
        process.start()
        while not port.value:
            time.sleep(0.05)
        taken = {}
        for concurrency in (1, 32):
            store = ObjectStore(
                endpoint_url=f"http://127.0.0.1:{port.value}", region="us-east-1", concurrency=concurrency
            )
            store.check("s3://bench/in/")  # the connection is there, the SDK loaded
            began = time.perf_counter()
            assert store.inventory(["s3://bench/in/**"]).height == keys
            taken[concurrency] = min(time.perf_counter() - began, taken.get(concurrency, 1e9))
        one, many = taken[1], taken[32]
        print(f"{name}: {one:.1f} s one at a time, {many:.1f} s with 32 at once: {one / many:.1f} times as fast")
        process.kill()


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--latency", type=float, default=LATENCY, help="seconds until the endpoint answers")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        return measure_memory(arguments.objects)
    command = [sys.executable, "-m", "benchmarks.listing", "--memory", "--objects", str(arguments.objects)]
    subprocess.run(command, check=True)
    return measure_requests(arguments.keys, arguments.latency)


if __name__ == "__main__":
    main()
