from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from shards.digest import canonical_json, digest, digest_file, source_key
from shards.errors import ShardError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_blake3_of_nothing() -> None:
    """From the test vectors of the BLAKE3 team."""
    assert digest(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_file_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    path = tmp_path / "file"
    path.write_bytes(data)
    assert digest_file(path) == digest(data)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="nowhere: cannot be read"):
        digest_file(tmp_path / "nowhere")


def test_source_key_is_stable() -> None:
    assert source_key("captions") == struct.unpack("<Q", blake3(b"mixc source 1\0captions").digest()[:8])[0]
    assert source_key("captions") == 0x4D36CBA7F2013A13
    assert source_key("日本") == 0x1F886BB13EE649AA


@given(JSON)
def test_canonical_json_reads_back_and_ignores_the_order_of_keys(value: object) -> None:
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data
    assert canonical_json(_turned(value)) == data


def _turned(value: object) -> object:
    """The same value, its keys inserted the other way round."""
    if isinstance(value, dict):
        return {key: _turned(value[key]) for key in reversed(value)}
    return [_turned(item) for item in value] if isinstance(value, list) else value


def test_canonical_json_as_documented() -> None:
    value = {
        "b": [1.0, 1e-5, 1e-7, 1e15, 1e16, 0.1, -0.0],
        "é": 'é\u2028/"\\\n\x01',
        "Z": None,
        "a": {"y": 1, "x": True},
    }
    assert (
        canonical_json(value)
        == (
            '{"Z":null,"a":{"x":true,"y":1},"b":[1.0,0.00001,1e-7,1000000000000000.0,1e16,0.1,-0.0],'
            '"é":"é\u2028/\\"\\\\\\n\\u0001"}'
        ).encode()
    )
