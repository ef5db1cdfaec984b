"""Our reader and writer of safetensors against the library's, and files that are not what they should be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from runtime import safetensor
from runtime.errors import CheckpointError
from runtime.safetensor import Stored, raw, reading, writing

DTYPES = [
    torch.int64,
    torch.float64,
    torch.float32,
    torch.int32,
    torch.bfloat16,
    torch.float16,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(
    lambda name: name != "__metadata__"
)
TENSORS = st.dictionaries(
    NAMES, st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)), min_size=1, max_size=8
)
fixed_folder = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def drawn(about: dict[str, tuple[torch.dtype, list[int]]]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in about.items()}


def stored(tensors: dict[str, torch.Tensor]) -> dict[str, Stored]:
    return {name: Stored(tuple(each.shape), each.dtype) for name, each in tensors.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(
        {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "file", {"x": "y"}
    )
    return tmp_path / "file"


@fixed_folder
@given(TENSORS, st.randoms(use_true_random=False), st.integers(1, 5))
def test_the_bytes_are_the_librarys_in_whatever_order_and_pieces_tensors_come(tmp_path, about, random, step) -> None:
    tensors = drawn(about)
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    order = list(tensors)
    random.shuffle(order)
    (tmp_path / "ours").unlink(missing_ok=True)
    with writing(tmp_path / "ours", stored(tensors)) as file:
        for name in order:
            flat = tensors[name].reshape(-1)
            for start in range(0, len(flat), step):
                file.write(name, flat[start : start + step])
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    with safe_open(tmp_path / "ours", framework="pt") as opened:
        assert all(torch.equal(opened.get_tensor(name), tensor) for name, tensor in tensors.items())
    with reading(tmp_path / "ours") as read:
        assert set(read.names) == set(tensors)
        found = {name: read.read(name) for name in read.names}
        assert {name: read.stored(name) for name in tensors} == stored(tensors)
        assert read.head + b"".join(raw(each) for each in found.values()) == (tmp_path / "ours").read_bytes()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_part_of_a_tensor(file: Path) -> None:
    with reading(file) as read:
        assert read.part("b", 2, 5).tolist() == [2.0, 3.0, 4.0]
        assert read.part("a", 3, 3).tolist() == []


def test_what_is_not_contiguous_is_written_row_by_row(tmp_path: Path) -> None:
    tensor = torch.arange(6).reshape(2, 3).T
    with writing(tmp_path / "file", {"x": Stored((3, 2), torch.int64)}) as file:
        file.write("x", tensor)
    with reading(tmp_path / "file") as read:
        assert torch.equal(read.read("x"), tensor)


def test_a_tensor_that_did_not_come_whole_is_our_mistake(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="x: 8 of 24 bytes"),
        writing(tmp_path / "file", {"x": Stored((3,), torch.int64)}) as file,
    ):
        file.write("x", torch.zeros(1, dtype=torch.int64))


def test_a_file_cut_short_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="cannot be read as safetensors"), reading(file):
            pass
    file.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match=f"has {len(whole) + 1} bytes, and its header speaks of"), reading(file):
        pass


@fixed_folder
@given(st.data())
def test_nothing_is_read_that_the_library_would_refuse(file: Path, data: st.DataObject) -> None:
    """A header with a byte changed, or put together at random."""
    whole = bytearray(file.read_bytes())
    header = int.from_bytes(whole[:8], "little")
    place = data.draw(st.integers(0, header + 7))
    whole[place] = data.draw(st.sampled_from(b'0123456789"[]{},:-. ') | st.integers(0, 255))
    changed = file.with_name("changed")
    changed.write_bytes(whole)
    try:
        with reading(changed) as read:
            found = {name: read.read(name) for name in read.names}
    except CheckpointError:
        return
    with safe_open(changed, framework="pt") as opened:
        assert set(opened.keys()) == set(found)
        assert all(raw(opened.get_tensor(name)) == raw(tensor) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b'{"x":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', "x has numbers of the kind F4"),
        (b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', "x does not lie behind"),
        (b'{"x":{"dtype":"U8","shape":[-1],"data_offsets":[0,-1]}}', "x does not lie behind"),
        (b'{"x":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}', "x does not lie behind"),
        (b'{"x":{"dtype":"U8","shape":[1]}}', "missing required field `data_offsets`"),
        (b"[]", "Expected `object`"),
        (b"\xff", "its header"),
    ],
)
def test_what_is_wrong_with_a_header_is_said(tmp_path: Path, header: bytes, says: str) -> None:
    (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(CheckpointError) as caught, reading(tmp_path / "file"):
        pass
    assert says in caught.value.why
    if "kind" not in says:  # the library knows more of them
        with pytest.raises(SafetensorError):
            safe_open(tmp_path / "file", framework="pt").__enter__()


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"), reading(tmp_path / "file"):
        pass


def test_a_file_that_is_cut_short_or_written_to_while_it_is_read(file: Path) -> None:
    """By a signal, SIGBUS, where a file is mapped; and not at all."""
    whole = file.read_bytes()
    with pytest.raises(CheckpointError, match="the file ends before it does"), reading(file) as read:
        os.truncate(file, len(whole) - 1)
        read.read(read.names[-1])
    file.write_bytes(whole)
    with pytest.raises(CheckpointError, match="it was changed while it was read"), reading(file) as read:
        read.read("a")
        with file.open("r+b") as other:
            other.write(whole[:8])
        os.utime(file, ns=(0, 0))  # a clock may be too coarse to tell
    with reading(file) as read:  # another file in its place is nothing to us
        file.with_name("other").write_bytes(b"")
        file.with_name("other").replace(file)
        assert read.read("a").tolist() == [1.0] * 3


def test_the_largest_header_is_the_librarys(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as sparse:
        sparse.write((safetensor._LONGEST_HEADER + 1).to_bytes(8, "little"))
        sparse.truncate(1 << 30)
    with pytest.raises(CheckpointError, match="header would be"), reading(tmp_path / "file"):
        pass
