"""Against a server that speaks S3's protocol on loopback: moto's, in a process of its own, so that it can be killed."""

from __future__ import annotations

import json
import os
import signal
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixc.errors import SourceError
from mixc.sources.read import read
from mixc.sources.sample import Reject
from mixc.sources.scan import scan
from mixc.spec.schema import Source
from tests.s3 import free_port, point_to, s3fs, start


@pytest.fixture
def bucket(s3_server: int, monkeypatch: pytest.MonkeyPatch):
    """(name, put): a bucket of the test's own."""
    point_to(s3_server, monkeypatch)
    name = "b-" + uuid.uuid4().hex
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    fs.mkdir(name)

    def put(key: str, data: bytes) -> str:
        fs.pipe_file(f"{name}/{key}", data)
        return f"s3://{name}/{key}"

    return name, put


def fragments(folder: Path, path: str | list[str], kind: str = "text", **fields: object):
    source = Source(path=path, kind=kind, **fields)  # type: ignore[arg-type]
    return scan("s", source, folder, folder / ".cache"), source


def rows(folder: Path, path: str | list[str], kind: str = "text", **fields: object):
    found, source = fragments(folder, path, kind, **fields)
    return [row for fragment in found for row in read(fragment, source)]


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def test_here_and_there_are_equal_fragments(bucket, tmp_path: Path, monkeypatch) -> None:
    name, put = bucket
    for key in ("a/x.jsonl", "a/y z+ä%20.jsonl", "a/deep/er/[1].jsonl"):
        data = lines(key, "same")
        put(key, data)
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)
    there, _ = fragments(tmp_path, f"s3://{name}/a/**/*.jsonl")
    here, _ = fragments(tmp_path, "a/**/*.jsonl")
    assert len(here) == 3
    assert [(f.digest, f.bytes) for f in there] == [(f.digest, f.bytes) for f in here]
    again, _ = fragments(tmp_path, f"s3://{name}/a/**/*.jsonl")
    assert again == there
    one, _ = fragments(tmp_path, f"s3://{name}/a/deep/er/[1].jsonl")
    assert [f.path for f in one] == [f"s3://{name}/a/deep/er/[1].jsonl"]


def test_listings_of_more_than_a_page(bucket, tmp_path: Path) -> None:
    name, _ = bucket
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    fs.pipe({f"{name}/many/{i:05}.jsonl": lines(str(i)) for i in range(1100)})  # a page has 1,000
    from mixc.sources.paths import expand

    assert len(expand("s", Source(path=f"s3://{name}/many/*.jsonl", kind="text"), tmp_path)) == 1100


def test_every_format_and_images_by_path(bucket, tmp_path: Path, png) -> None:
    name, put = bucket
    put("m/img/1.png", png(1))
    put("m/rows.jsonl", b'{"text": "a", "image": "img/1.png"}\n{"text": "b", "image": "img/2.png"}\n')
    got = rows(tmp_path, f"s3://{name}/m/rows.jsonl", "caption")
    assert got[0].images == (png(1),) and isinstance(got[1], Reject) and got[1].reason == "image_missing"
    put("f/metadata.csv", b"file_name,text\nx.png,hello\n")
    put("f/x.png", png(2))
    [row] = rows(tmp_path, f"s3://{name}/f", "caption", format="imagefolder")
    assert row.images == (png(2),) and row.turns[-1].text == "hello"
    put("p/x.png", png(3))
    put("p/x.txt", b"beside")
    [row] = rows(tmp_path, f"s3://{name}/p", "caption", format="imagefolder")
    assert row.images == (png(3),) and row.turns[-1].text == "beside"


def test_a_row_group_is_read_by_range(bucket, tmp_path: Path) -> None:
    name, put = bucket
    table = pa.table({"text": [f"t{i}" for i in range(1000)], "unused": [os.urandom(1 << 14) for _ in range(1000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100, compression="none")
    put("a.parquet", (tmp_path / "a.parquet").read_bytes())
    from mixc.sources import remote
    from mixc.sources.formats import parquet

    read_bytes = 0
    real = remote._File.readinto

    def counted(self, buffer) -> int:
        nonlocal read_bytes
        got = real(self, buffer)
        read_bytes += got
        return got

    source = Source(path="", kind="text")
    remote._File.readinto = counted  # type: ignore[method-assign]
    try:
        assert [row.values["text"] for row in parquet.rows(f"s3://{name}/a.parquet", source)] == table[
            "text"
        ].to_pylist()
    finally:
        remote._File.readinto = real  # type: ignore[method-assign]
    assert 0 < read_bytes < (1 << 24)


@pytest.mark.parametrize("path", ["s3://{b}/none.jsonl", "s3://{b}/none/*.jsonl", "s3://no-such-bucket-here/*.jsonl"])
def test_what_is_not_there(path: str, bucket, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        rows(tmp_path, path.format(b=bucket[0]))
    assert error.value.what.startswith("no file matches") and error.value.where == "sources.s.path"


def test_no_server(tmp_path: Path, monkeypatch) -> None:
    point_to(free_port(), monkeypatch)
    with pytest.raises(SourceError) as error:
        rows(tmp_path, "s3://bucket/*.jsonl")
    assert error.value.what == "the store does not answer" and "AWS_ENDPOINT_URL" in error.value.mend


def test_no_keys(s3_server: int, tmp_path: Path, monkeypatch) -> None:
    point_to(s3_server, monkeypatch)
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    for key in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(key, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SourceError) as error:
        rows(tmp_path, "s3://bucket/*.jsonl")
    assert error.value.what == "there are no keys for this store"


def test_a_server_that_dies_while_a_file_is_read_is_an_error_and_no_reject(tmp_path: Path, monkeypatch) -> None:
    port = free_port()
    process = start(port)
    try:
        point_to(port, monkeypatch)
        fs = s3fs.S3FileSystem(use_listings_cache=False)
        fs.mkdir("dies")
        fs.pipe_file("dies/a.jsonl", lines(*("x" * 1000 for _ in range(20_000))))
        pq.write_table(
            pa.table({"text": ["y" * 1000 + str(i) for i in range(20_000)]}),
            tmp_path / "a.parquet",
            row_group_size=500,
            compression="none",
            use_dictionary=False,
        )
        fs.pipe_file("dies/a.parquet", (tmp_path / "a.parquet").read_bytes())
        for key in ("a.jsonl", "a.parquet"):
            [fragment], source = fragments(tmp_path, f"s3://dies/{key}")
            reading = read(fragment, source)
            next(reading)
            if key == "a.parquet":
                process.send_signal(signal.SIGKILL)
                process.wait()
                with pytest.raises(SourceError) as error:
                    assert not any(isinstance(row, Reject) for row in reading)
                assert error.value.what == "the store does not answer"
    finally:
        process.kill()
        process.wait()


def test_a_file_that_changes_while_it_is_read_is_an_error(bucket, tmp_path: Path) -> None:
    name, put = bucket
    put("a.jsonl", lines(*("x" * 1000 for _ in range(20_000))))
    [fragment], source = fragments(tmp_path, f"s3://{name}/a.jsonl")
    reading = read(fragment, source)
    next(reading)
    put("a.jsonl", lines(*("y" * 999 for _ in range(20_000))))
    from mixc.sources.scan import unchanged

    try:
        list(reading)
    except SourceError as error:
        assert error.what == "this file changed while it was read"
    assert not unchanged(fragment, source, tmp_path / ".cache")
