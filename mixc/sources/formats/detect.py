"""Which format a file is in: told by its name or by the spec, and checked against its first bytes."""

from __future__ import annotations

import re
import tarfile
from typing import BinaryIO

from mixc.errors import SourceError
from mixc.sources.files import open_binary, printable, reading

FORMATS = (
    *("parquet", "arrow", "jsonl", "jsonl.gz", "jsonl.zst", "json", "webdataset", "imagefolder"),
    *("csv", "csv.gz", "csv.zst", "tsv", "tsv.gz", "tsv.zst"),
)
"""Of fragments. A spec says `jsonl` or `csv` for all of their kinds, and `huggingface` for arrow."""

_SUFFIXES = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl.gz",
    ".jsonl.zst": "jsonl.zst",
    ".json": "json",
    ".tar": "webdataset",
    **{f".{text}{packed}": f"{text}{packed}" for text in ("csv", "tsv") for packed in ("", ".gz", ".zst")},
}
_MENDS = {
    ".tar.gz": "unpack it with `gzip -d`: images do not compress again",
    ".tgz": "unpack it with `gzip -d`: images do not compress again",
    ".json.gz": "unpack it, or write JSON lines (.jsonl.gz)",
    ".ndjson": "say `format: jsonl`",
    ".arrow": "say `format: huggingface`, and name the folder that it is in",
}
_PACKED = {None: "", "gzip": ".gz", "zstd": ".zst"}
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_ARROW_STREAM, _ARROW_FILE = b"\xff\xff\xff\xff", b"ARROW1"  # Arrow columnar format, "IPC streaming format"
_ZSTD, _ZSTD_SKIPPABLE = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"


def detect(path: str, declared: str | None) -> str:
    """The format of the file at `path`, one of FORMATS. `declared` is the spec's `format:`.

    Raises SourceError: a suffix that is not known, a file that is empty, unreadable or not what its name
    says.
    """
    name = path.rsplit("/", 1)[-1].lower()
    by_name = next((format for suffix, format in _SUFFIXES.items() if name.endswith(suffix)), None)
    if declared is None and by_name is None:
        raise _unknown(path, name)
    with reading(path), open_binary(path) as file:
        head, tail = _ends(file)
    format = _DECLARED.get(declared or "", declared) or by_name
    if declared in ("jsonl", "csv"):  # a name that tells the compression is held to it; otherwise the content tells
        told = next((packed for packed in (".gz", ".zst") if name.endswith(packed)), None)
        text = "tsv" if declared == "csv" and re.search(r"\.tsv(\.|$)", name) else declared
        format = text + (told or _PACKED[_compression(head)])
    elif declared == "imagefolder":
        format = by_name
    assert format is not None
    wrong = _mismatch(format, head, tail)
    if wrong:
        why, mend = wrong
        raise SourceError(f"this file is not {_NOUNS[format]}", where=printable(path), why=why, mend=mend)
    return format


_DECLARED = {"huggingface": "arrow"}
_NOUNS = {
    "arrow": "an Arrow stream",
    "csv": "CSV",
    "csv.gz": "gzip",
    "csv.zst": "zstd",
    "tsv": "TSV",
    "tsv.gz": "gzip",
    "tsv.zst": "zstd",
    "parquet": "Parquet",
    "jsonl": "JSON lines",
    "jsonl.gz": "gzip",
    "jsonl.zst": "zstd",
    "json": "JSON",
    "webdataset": "a tar",
}


def _unknown(path: str, name: str) -> SourceError:
    mend = next((mend for suffix, mend in _MENDS.items() if name.endswith(suffix)), None)
    return SourceError(
        "this file's name does not tell its format",
        where=printable(path),
        why=f"known are {', '.join(_SUFFIXES)}",
        mend=mend or "narrow `path:`, for example to *.jsonl, or say `format:`",
    )


def _ends(file: BinaryIO) -> tuple[bytes, bytes]:
    head = file.read(tarfile.BLOCKSIZE)
    size = file.seek(0, 2)
    file.seek(max(0, size - 4))
    return head, file.read(4)


def _compression(head: bytes) -> str | None:
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZSTD) or (head[1:4] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50):
        return "zstd"
    return None


def _mismatch(format: str, head: bytes, tail: bytes) -> tuple[str, str] | None:
    """Why the file cannot be what `format` says, and the mend; None when it can."""
    again = "make or download it again, or leave it out"
    if not head:
        return None if format == "jsonl" else ("it is empty", again)
    if format == "parquet":
        if not head.startswith(_PARQUET):
            return f"it begins with {head[:4]!r}, not {_PARQUET!r}", again
        if tail != _PARQUET:
            return "it begins as Parquet, but its end is cut off", again
        return None
    compression = _compression(head)
    if format == "arrow":
        if head.startswith(_ARROW_STREAM):
            return None
        is_file = head.startswith(_ARROW_FILE)
        return "it is an Arrow *file*" if is_file else f"it begins with {head[:4]!r}", "save it with `save_to_disk`"
    if format.endswith((".gz", ".zst")):
        expected = "gzip" if format.endswith(".gz") else "zstd"
        if compression == expected:
            return None
        found = f"it is {compression}" if compression else f"it begins with {head[:4]!r}"
        return found, "rename it to what it is" if compression else again
    if compression:
        return f"it is compressed with {compression}", "rename it (.gz, .zst) or decompress it"
    if format == "webdataset":
        return None if _is_tar(head) else ("its first block is not a tar header", again)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it is UTF-16", "convert it to UTF-8: iconv -f UTF-16 -t UTF-8"
    if head.startswith(_PARQUET):
        return "it is Parquet", "rename it to .parquet"
    return None


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # known to tarfile, not to its stubs
        return True  # an archive without members
    except (tarfile.HeaderError, ValueError):
        return False
    return True
