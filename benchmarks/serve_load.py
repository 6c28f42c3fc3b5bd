"""What `xattn serve` bears: `python benchmarks/serve_load.py INDEX --sentences FILE`.

So many clients at once ask for sentences, and for two photos of each answer, again and again. One request in twenty is
one that must be refused. The server is a process of its own; its memory is what it holds at the end of the first and of
the last quarter of the time.
"""

import argparse
import http.client
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

BAD = (
    ("/api/search", 400),
    ("/api/search?q=a&top=0", 400),
    (f"/api/search?q={'x' * 900}", 400),
    ("/api/photos/..%2f..%2fetc%2fpasswd", 404),
    (f"/api/photos/{'0' * 64}", 404),
    ("/api/explore?q=a&photo=1", 400),
    ("/none", 404),
)


class Client(threading.Thread):
    """Asks until the time is over."""

    def __init__(self, port: int, sentences: list[str], number: int, until: float) -> None:
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.sentences, self.random, self.until = sentences, random.Random(number), until
        self.seconds: dict[str, list[float]] = {"search": [], "photo": []}
        self.answers: Counter[str] = Counter()

    def run(self) -> None:
        while time.monotonic() < self.until:
            if self.random.random() < 0.05:
                address, expected = self.random.choice(BAD)
                status, _ = self.ask(address)
                self.answers["refused" if status == expected else f"wrong: {status} for {address[:40]}"] += 1
                continue
            begun = time.perf_counter()
            status, content = self.ask(f"/api/search?q={quote(self.random.choice(self.sentences))}&top=10")
            self.answers[f"search {status}"] += 1
            if status != 200:
                time.sleep(0.5)
                continue
            self.seconds["search"].append(time.perf_counter() - begun)
            for hit in self.random.sample(json.loads(content)["hits"], 2):
                begun = time.perf_counter()
                status, _ = self.ask(f"/api/photos/{hit['photo']}?side=240")
                self.answers[f"photo {status}"] += 1
                self.seconds["photo"].append(time.perf_counter() - begun)

    def ask(self, address: str) -> tuple[int, bytes]:
        try:
            self.connection.request("GET", address)
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            self.answers[type(error).__name__] += 1
            return 0, b""


def main() -> None:
    options = parsed()
    sentences = [line for line in options.sentences.read_text().splitlines() if line.strip()]
    command = [sys.executable, "-m", "xattn", "serve", str(options.index), "--port", "0"]
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r":(\d+)/", process.stdout.readline())
        assert found
        print(f"ready after {time.perf_counter() - begun:.1f} s, with {megabytes(process):,.0f} MB")
        for n in options.clients:
            print_load(process, int(found[1]), sentences, n, options.seconds)
        process.terminate()
    print(f"ended with the status {process.returncode}")


def print_load(process: Any, port: int, sentences: list[str], n: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    clients = [Client(port, sentences, number, until) for number in range(n)]
    for client in clients:
        client.start()
    time.sleep(seconds / 4)
    early = megabytes(process)
    for client in clients:
        client.join(seconds + 90)
    late = megabytes(process)
    answers = sum((client.answers for client in clients), Counter())
    print(f"{n} clients, {seconds:g} s: {dict(sorted(answers.items()))}")
    for kind in ("search", "photo"):
        taken = np.concatenate([client.seconds[kind] for client in clients])
        median, most = np.quantile(taken, [0.5, 0.95])
        print(f"  {kind}: {len(taken) / seconds:.1f} a second; median {median:.3f} s, 95% within {most:.3f} s")
    print(f"  memory {early:,.0f} MB and {late:,.0f} MB", flush=True)


def megabytes(process: Any) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--sentences", type=Path, required=True, help="a file with one a line")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--seconds", type=float, default=60)
    return parser.parse_args()


if __name__ == "__main__":
    main()
