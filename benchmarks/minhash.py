"""Near-duplicates of texts, end to end on one core: speed, recall, precision and memory, ours and Datatrove's.

    python benchmarks/minhash.py [FOLDER] [--megabytes 40] [--peer-megabytes 6] [--peer PYTHON]

Documents are the .html and .txt files of FOLDER; without it, the Linux and PostgreSQL manuals as Debian packages them, which
`apt-get download` fetches. To every tenth comes a copy with 0 to 5 % of its words changed. Both tools take 5-grams of words
and 112 hashes. Datatrove runs in an environment of its own, made here unless --peer names its Python, on the first documents
only, and ours on those too. Start-up, imports and compilation are not timed; seconds are the process's CPU time.

Recall: of the documents with an earlier one of true Jaccard similarity 0.8 or more, the part that is dropped. Precision: of the
dropped, the part with another document of 0.8 or more. Truth is counted from the sets of shingles, pair by pair.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from corpus import MANUALS, documents, download

from mixc.clean.clusters import near_duplicates
from mixc.clean.minhash import signatures
from mixc.clean.shingles import shingles

NGRAM, HASHES, THRESHOLD = 5, 112, 0.8
BATCH = 1000
PEER = ["datatrove[io,processing]==0.10.1", "spacy"]

DATATROVE = """
import json, sys, time
from pathlib import Path
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature, MinhashDedupBuckets, MinhashDedupCluster
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.typeshelper import Languages
from loguru import logger
logger.remove()
texts, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
config = MinhashConfig(n_grams=int(sys.argv[3]), num_buckets=14, hashes_per_bucket=8)
def run(texts, folder):
    docs = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
    times = [time.process_time()]
    MinhashDedupSignature(str(folder / "s"), config, language=Languages.english).run(iter(docs), 0, 1)
    times.append(time.process_time())
    for bucket in range(14):
        MinhashDedupBuckets(str(folder / "s"), str(folder / "b"), config=config).run(None, bucket, 14)
    times.append(time.process_time())
    MinhashDedupCluster(str(folder / "b"), str(folder / "r"), config=config).run(None, 0, 1)
    times.append(time.process_time())
    return [b - a for a, b in zip(times, times[1:])]
run(texts[:5] * 2, folder / "warm")
seconds = run(texts, folder / "real")
dropped = [int.from_bytes(data[i:i + 4], "little") for data in [f.read_bytes() for f in (folder / "real/r").glob("*.remove")]
           for i in range(0, len(data), 4)]
print(json.dumps([seconds, dropped]))
"""


def planted(texts: list[str]) -> list[str]:
    """With a copy behind every tenth, its words changed at one of four rates."""
    dice = random.Random(1)
    result = []
    for number, text in enumerate(texts):
        result.append(text)
        if number % 10 == 0:
            rate = dice.choice([0, 0.005, 0.02, 0.05])
            words = re.split(r"(\s+)", text)
            result.append("".join(f"w{dice.randrange(10**6)}" if dice.random() < rate else word for word in words))
    return result


def ours(texts: list[str]) -> tuple[list[float], np.ndarray]:
    """CPU seconds of shingling and signing and of clustering, and the winners."""
    times = [time.process_time()]
    batches = range(0, len(texts), BATCH)
    signed = [signatures(texts[start : start + BATCH], ngram=NGRAM, permutations=HASHES) for start in batches]
    times.append(time.process_time())
    won = near_duplicates(np.concatenate(signed), np.arange(len(texts)), threshold=THRESHOLD)
    times.append(time.process_time())
    return np.diff(times).tolist(), won


def similarities(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Of each document the largest true similarity to an earlier one, and to any other."""
    found, ends = shingles(texts, ngram=NGRAM)
    ids = np.unique(found, return_inverse=True)[1].astype(np.int32)
    sets = [np.unique(part) for part in np.split(ids, ends[:-1])]
    sizes = np.array([len(own) for own in sets])
    flat, starts = np.concatenate(sets), np.cumsum(sizes) - sizes
    earlier, any_other = np.zeros(len(texts)), np.zeros(len(texts))
    present = np.zeros(len(found) + 1, np.uint8)
    for i, own in enumerate(sets[1:], 1):
        present[own] = 1
        common = np.add.reduceat(present[flat[: starts[i]]], starts[:i], dtype=np.int32)
        present[own] = 0
        similarity = common / (sizes[:i] + sizes[i] - common)
        earlier[i] = similarity.max()
        any_other[i] = max(any_other[i], earlier[i])
        np.maximum(any_other[:i], similarity, out=any_other[:i])
    return earlier, any_other


def judge(name: str, dropped: np.ndarray, earlier: np.ndarray, any_other: np.ndarray) -> None:
    for least in (THRESHOLD, THRESHOLD + 0.05):
        due = earlier >= least
        print(f"{name}: recall {(dropped & due).sum() / due.sum():.4f} of {due.sum()} at {least:.2f} or more")
    right, worst = (any_other[dropped] >= THRESHOLD).mean(), any_other[dropped].min()
    print(f"{name}: precision {right:.4f} of {dropped.sum()}; the least similar of the dropped has {worst:.3f}")


def peak() -> float:
    """MiB of memory of this process at most."""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def scale(number: int) -> None:
    """Clustering alone: random signatures, every other one with an earlier one's places but for a tenth."""
    random = np.random.default_rng(2)
    signed = random.integers(0, 1 << 32, (number, HASHES), np.uint32)
    signed[1::2, HASHES // 10 :] = signed[random.integers(0, number // 2, number // 2) * 2, HASHES // 10 :]
    ranks = random.permutation(number)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak (man 5 proc)
    before = peak()
    start = time.process_time()
    won = near_duplicates(signed, ranks, threshold=THRESHOLD)
    seconds, more = time.process_time() - start, peak() - before
    print(
        f"clustering {number:,} signatures: {seconds:.1f} s, {more:.0f} MiB beside their {signed.nbytes / 2**20:.0f} MiB"
    )
    print(f"    {(won != np.arange(number)).sum():,} dropped")


def datatrove(texts: list[str], python: str | None, folder: Path) -> tuple[list[float], np.ndarray]:
    if python is None:
        subprocess.run([sys.executable, "-m", "venv", str(folder / "peer")], check=True)
        python = str(folder / "peer/bin/python")
        subprocess.run([python, "-m", "pip", "install", "-q", *PEER], check=True)
    (folder / "texts.json").write_text(json.dumps(texts))
    command = [python, "-c", DATATROVE, str(folder / "texts.json"), str(folder / "work"), str(NGRAM)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    seconds, numbers = json.loads(done.stdout.splitlines()[-1])
    dropped = np.zeros(len(texts), bool)
    dropped[numbers] = True
    return seconds, dropped


def show(name: str, seconds: list[float], size: float) -> float:
    parts = ", ".join(f"{s:.3f}" for s in seconds)
    print(f"{name}: {size:.1f} MB in {sum(seconds):.3f} s ({parts}): {size / sum(seconds):.2f} MB/s a core")
    return size / sum(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--peer-megabytes", type=float, default=6)
    parser.add_argument("--signatures", type=int, default=1_000_000, help="for clustering alone")
    parser.add_argument("--peer", help="a Python that has " + " and ".join(PEER))
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        texts = planted(documents([options.folder] if options.folder else download(work, MANUALS), options.megabytes))
        if not texts:
            sys.exit(f"no .html or .txt file of 200 characters in {options.folder}")
        sizes = np.cumsum([len(text.encode()) for text in texts]) / 1e6
        ours(texts[:20])
        print(f"{len(texts):,} documents; seconds: shingle and sign, cluster")
        seconds, won = min((ours(texts) for _ in range(3)), key=lambda run: sum(run[0]))
        show("ours, all", seconds, sizes[-1])
        judge("ours, all", won != np.arange(len(texts)), *similarities(texts))
        some = texts[: int(np.searchsorted(sizes, options.peer_megabytes)) + 1]
        size = float(sizes[len(some) - 1])
        truth = similarities(some)
        print(f"\nfirst {len(some):,} documents; Datatrove's seconds: sign, buckets, cluster")
        seconds, won = min((ours(some) for _ in range(3)), key=lambda run: sum(run[0]))
        fast = show("ours", seconds, size)
        judge("ours", won != np.arange(len(some)), *truth)
        seconds, dropped = datatrove(some, options.peer, work)
        slow = show("datatrove", seconds, size)
        judge("datatrove", dropped, *truth)
        print(f"ratio: {fast / slow:.0f}\n")
        scale(options.signatures)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
