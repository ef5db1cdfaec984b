"""`mixc sql`: a build's plan, drops, rejects and manifest as tables; no file is reached but through them."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mixc.query.ask import Answer, QueryError
from mixc.query.tables import ABOUT, open_tables
from tests.compile.conftest import REPO

pytestmark = pytest.mark.slow


@pytest.fixture
def ask(demo: Path, tmp_path: Path):
    """A function from a query over the demo to its rows."""
    with open_tables(demo, tmp_path / "spill", memory_limit="1GB") as connection:
        yield lambda query: list(Answer(connection, query).rows())


def rows(build: Path, name: str) -> list[dict]:
    return pq.read_table(build / f"{name}.parquet").to_pylist()


def test_every_table_is_what_its_file_holds(mixc, demo: Path, ask) -> None:
    manifest = json.loads((demo / "manifest.json").read_text())["manifest"]
    names = [stage["name"] for stage in manifest["stages"]]
    for name in ("placements", "packs", "drops", "kept_out", "fragments"):
        expected = rows(demo / "plan", name)
        assert ask(f"select count(*) from {name}") == [(len(expected),)]
    told = ask('select stage, stage_name, pack, place, source, id, tokens, "row" from placements order by all')
    assert told == sorted(
        (p["stage"], names[p["stage"]], p["pack"], p["place"], p["source"], p["id"], p["tokens"], p["row"])
        for p in rows(demo / "plan", "placements")
    )
    assert ask("select count(*) from rejects") == [(len(rows(demo, "rejects")),)]
    assert ask("from held_out") == []
    assert ask("select stage_name, packs, tokens, digest from stages order by stage") == [
        (s["name"], s["packs"], s["tokens"], s["digest"]) for s in manifest["stages"]
    ]
    assert ask("select name, digest from shards order by stage, name") == [
        (shard["name"], shard["digest"]) for stage in manifest["stages"] for shard in stage["shards"]
    ]
    tokens = Counter[tuple[str, str]]()
    for placement in rows(demo / "plan", "placements"):
        tokens[names[placement["stage"]], placement["source"]] += placement["tokens"]
    assert {(stage, source): n for stage, source, n in ask("select stage_name, source, tokens from mix")} == tokens
    locked = json.loads((demo / "mixture.lock").read_text())["sources"]
    assert ask("select source, fragments, samples, rejects from sources order by source") == [
        (name, len(own), sum(f["samples"] for f in own), sum(f["rejects"] for f in own))
        for name, own in sorted(locked.items())
    ]
    # every sample of the sources is in `samples`, once, used or with the rule that dropped it
    (all_samples,) = ask(
        "select count(*), count(DISTINCT id), count(*) filter ((uses > 0) = (rule is null)) from samples"
    )
    assert set(all_samples) == {sum(f["samples"] for own in locked.values() for f in own)}

    listed = mixc.json("sql", demo)
    assert [table["name"] for table in listed["tables"]] == list(ABOUT)
    assert {"name": "id", "type": "UUID"} in listed["tables"][0]["columns"]
    assert "stage_name  VARCHAR" in mixc("sql", demo).stdout


def test_an_id_is_found_in_either_form_and_given_as_everywhere_in_mixc(mixc, demo: Path) -> None:
    id = rows(demo / "plan", "placements")[0]["id"]
    for form in (str(id), id.hex):
        query = f"select id, uses, stages from samples where id = '{form}'"
        (found,) = mixc.json("sql", demo, query)["rows"]
        assert found["id"] == id.hex and found["uses"] >= 1
        told = list(csv.DictReader(io.StringIO(mixc("sql", demo, query, "--csv").stdout)))
        assert told == [
            {"id": id.hex, "uses": str(found["uses"]), "stages": json.dumps(found["stages"], separators=(",", ":"))}
        ]
        assert id.hex in mixc("sql", demo, query).stdout
    mixc("explain", demo, "--sample", id.hex)


@pytest.mark.parametrize(
    "query",
    [
        "from read_csv('{file}')",
        "from '{file}'",
        "select content from read_text('{file}')",
        "from glob('{build}/*')",
        "from read_parquet('{build}/plan/drops.parquet')",
        "from parquet_metadata('{build}/plan/drops.parquet')",
        "copy drops to '{file}'",
        "copy (select 1) to '{build}/plan/drops.parquet' (use_tmp_file false)",
        "with x as (copy (select 1) to '{build}/plan/drops.parquet' (use_tmp_file false)) from x",
        "explain analyze copy (select 1) to '{build}/plan/drops.parquet' (use_tmp_file false)",
        "with x as (insert into stages from stages returning *) from x",
        "with x as (delete from stages returning *) from x",
        "attach '{file}'",
        "attach '{build}/new.db'",
        "install httpfs",
        "load httpfs",
        "load '{file}'",
        "set threads = 1",
        "reset memory_limit",
        "pragma enable_profiling",
        "call enable_logging()",
        "from enable_logging(storage = 'file', storage_path = '{build}')",
        "create table t as select 1",
        "create macro f() as 1",
        "drop view drops",
        "export database '{build}'",
        "begin",
        "commit",
        "rollback",
        "select 1; select 2",
        "commit; create table t as select 1",
        "select 1; copy drops to '{file}'",
        "prepare p as select 1",
        "select getenv('HOME')",
        "select",
        "",
        "-- nothing",
        ";",
        "select 'open",
        "select \0",
    ],
)
def test_a_query_reaches_no_file_and_changes_nothing(demo: Path, tmp_path: Path, query: str) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("secret\n1\n")
    before = {path: path.read_bytes() for path in demo.rglob("*") if path.is_file()}
    with (
        open_tables(demo, tmp_path / "spill") as connection,
        pytest.raises(QueryError),
    ):
        list(Answer(connection, query.format(file=file, build=demo)).rows())
    assert {path: path.read_bytes() for path in demo.rglob("*") if path.is_file()} == before
    assert file.read_text() == "secret\n1\n" and {path.name for path in tmp_path.iterdir()} == {"secret.csv"}


@pytest.mark.parametrize("query", ["describe drops", "show tables", "summarize packs", "values (1)", "table packs"])
def test_what_only_reads_is_answered(ask, query: str) -> None:
    assert ask(query)


def test_a_mistake_is_shown_with_its_caret(mixc, demo: Path) -> None:
    told = mixc("sql", demo, "select source, tokns\nfrom drops", check=2).stderr
    assert told.startswith('error: Referenced column "tokns" not found') and "Traceback" not in told
    excerpt, caret = told.splitlines()[-2:]
    assert caret.index("^") == excerpt.index("tokns")
    assert "the tables are drops, fragments" in mixc("sql", demo, "from dropped", check=2).stderr
    assert "one statement" in mixc("sql", demo, "select 1; select 2", check=2).stderr
    assert "two ways" in mixc("sql", demo, "select 1", "--csv", "--json", check=2).stderr
    assert "not a memory limit" in mixc("sql", demo, "select 1", "--memory", "much", check=2).stderr
    for place in (demo / "plan", demo / "none"):
        assert "not a build" in mixc("sql", place, "select 1", check=2).stderr


def test_a_build_at_an_odd_place_and_one_that_is_damaged(mixc, demo: Path, tmp_path: Path) -> None:
    odd = tmp_path / "b[0-9]*'?\" %41 ü"
    shutil.copytree(demo, odd)
    assert mixc.json("sql", odd, "select count(*) as n from packs")["rows"][0]["n"] > 0
    (odd / "plan/packs.parquet").write_bytes(b"PAR1 no more")
    told = mixc("sql", odd, "from packs", check=2).stderr
    assert "packs.parquet" in told and "mixc verify" in told and "Traceback" not in told
    shutil.copy(demo / "plan/packs.parquet", odd / "plan/packs.parquet")
    data = bytearray((odd / "plan/drops.parquet").read_bytes())
    data[4:200] = bytes(196)  # its footer is whole
    (odd / "plan/drops.parquet").write_bytes(data)
    told = mixc("sql", odd, "select max(source), max(id), sum(tokens) from drops", check=2).stderr
    assert "mixc verify" in told and "Traceback" not in told


def test_an_answer_without_end_is_streamed(mixc, demo: Path) -> None:
    """Its reader takes what it wants and leaves: nothing is held whole, and nobody sees a traceback."""
    for form in ("--csv", "--json"):
        command = [sys.executable, "-m", "mixc", "sql", str(demo), "select range as n from range(100000000000)", form]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=mixc.environment(), cwd=REPO
        ) as process:
            assert process.stdout and process.stderr
            assert len(process.stdout.read(1 << 20)) == 1 << 20
            process.stdout.close()
            assert b"Traceback" not in process.stderr.read()
            assert process.wait(60) in (0, 1)  # 1: what click makes of a pipe without a reader


def test_more_than_the_memory_allows_spills_or_is_refused(mixc, demo: Path) -> None:
    query = "select max(n) from (select hash(range) as n from range(6000000) order by n limit 5900000)"
    mixc("sql", demo, query, "--memory", "150MB")
    told = mixc(
        "sql", demo, "select length(string_agg(range::varchar, '')) from range(100000000)", "--memory", "100MB", check=2
    )
    assert "--memory" in told.stderr and "Traceback" not in told.stderr


def test_ctrl_c_ends_a_long_query(mixc, demo: Path) -> None:
    query = "select count(*) from range(1000000) a, range(10000000) b where (a.range * b.range) % 7 = 3"
    process = subprocess.Popen(
        [sys.executable, "-m", "mixc", "sql", str(demo), query],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=mixc.environment(),
        cwd=REPO,
    )
    time.sleep(5)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in told
