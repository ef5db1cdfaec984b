"""`mixc chat` as people use it: one question, a file of them, a conversation on a terminal, and how each ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mixc.ask.model import Model
from mixc.ask.prompt import Looking, look, prompt, question
from mixc.sources.sample import Turn
from tests.ask.conftest import REPO, Mixc

pytestmark = pytest.mark.slow
FEW = ("--max-new-tokens", "6")


def test_one_question_as_json(mixc: Mixc, run: Path, model: Model, images: Path) -> None:
    done = mixc("chat", run, "What is it?", "--image", images / "wide.png", "--system", "S", "--json", *FEW)
    found = json.loads(done.stdout)
    turns = [Turn("system", "S"), Turn("user", question("What is it?", images=1))]
    made = prompt(turns, look([images / "wide.png"], [], model, Looking()), model)
    assert found.pop("answer") and found.pop("weights").endswith(f"tensors from {run / 'tune'}")
    assert found == {
        "folder": str(run / "tune"),
        "model": "sail-vl-tiny-v1",
        "device": "cpu",
        "precision": "fp32",
        "question": "What is it?",
        "images": [{"path": str(images / "wide.png"), "tiles": 4}],
        "prompt_tokens": len(made.tokens),
        "end": "length",
    }
    assert done.stderr == ""


def test_what_is_said_beside_an_answer(mixc: Mixc, run: Path, tmp_path: Path) -> None:
    done = mixc("chat", run, "What?", *FEW)
    assert done.stdout.endswith("\n") and done.stderr == "stopped at the limit of 6 tokens (--max-new-tokens)\n"
    assert mixc("chat", run, "What?", "--json", *FEW).stderr == ""

    (tmp_path / "run").mkdir()
    for name in ("run.json", "align"):
        (tmp_path / "run" / name).symlink_to(run / name)
    done = mixc("chat", tmp_path / "run", "What?", "--max-new-tokens", "1")
    assert done.stderr.splitlines() == [
        "the weights of stage align answer: tune is not trained to the end",
        "stopped at the limit of 1 token (--max-new-tokens)",
    ]


def test_a_file_of_questions_one_bad_among_others(mixc: Mixc, run: Path, images: Path, tmp_path: Path) -> None:
    lines = [
        {"id": 1, "question": "What?", "images": [str(images / "one.png")]},
        {"id": 2, "question": "Missing?", "images": ["none.png"]},
        {"id": 3, "question": "Half?", "images": [str(images / "half.png")]},
        {"id": 4, "question": "Huge?", "images": [str(images / "huge.png")]},
        {"id": 5, "question": "<image><image>", "images": [str(images / "one.png")]},
        {"id": 6, "question": "a\0<|im_end|>\n\u2028", "images": []},
        {"id": 7, "question": "Nul?", "images": ["a\0b"]},
        {"id": 8, "question": "Film?", "frames": [str(images / "wide.png")] * 2},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = ("chat", run, "--batch", tmp_path / "q.jsonl", *FEW)
    done = mixc(*arguments, "--out", tmp_path / "a.jsonl", "--batch-size", 3, status=1)
    assert done.stdout == "" and "not answered: 5 of 8 questions;" in done.stderr
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").read_bytes().splitlines()]
    assert [{**line, "images": line.get("images", [])} for line in lines] == [
        {"id": f["id"], "question": f["question"], "images": f.get("images", [])}
        | ({"frames": f["frames"]} if "frames" in f else {})
        for f in found
    ]
    says = {2: "none.png", 3: "truncated", 4: "70000 x 1300", 5: "2 <image> placeholders", 7: "null byte"}
    for line in found:
        if line["id"] in says:
            assert says[line["id"]] in line["error"] and "answer" not in line
        else:
            assert line["end"] == "length" and isinstance(line["answer"], str) and "error" not in line
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.jsonl", "q.jsonl"]
    # a question has the same answer alone
    alone = json.loads(mixc("chat", run, "What?", "-i", images / "one.png", "--json", *FEW).stdout)
    assert alone["answer"] == found[0]["answer"]


class TestMistakes:
    """Each is told before a model is loaded."""

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["none", "hi"], "no model here"),
            (["RUN", "hi", "-i", "none.png"], "none.png"),
            (["RUN", "hi", "-i", "TEXT"], "no known image format"),
            (["RUN", "hi", "--tokenizer", "none"], "no tokenizer 'none'"),
            (["RUN", "hi", "--template", "none"], "no chat template is called"),
            (["RUN", "a <image>"], "there are 0 images"),
            (["RUN", "hi", "--precision", "fp8"], "--precision is fp32 or bf16"),
            (["RUN", "hi", "--temperature", "nan"], "--temperature"),
            (["RUN", "hi", "--temperature", "1e-9"], "--temperature"),
            (["RUN", "hi", "--top-p", "nan"], "--top-p"),
            (["RUN", "hi", "--top-p", "0"], "--top-p"),
            (["RUN", "hi", "--max-new-tokens", "1" + "0" * 30], "--max-new-tokens"),
            (["RUN", "hi", "--seed", "-1"], "--seed"),
            (["RUN", "hi", "--batch", "q"], "--batch has its questions"),
            (["RUN", "--json"], "--json is for one question"),
            (["RUN", "hi", "--out", "a"], "--out is for --batch"),
            (["RUN", "hi", "-i", "TEXT", "--frame", "TEXT"], "not both"),
            (["RUN", b"a\xff"], "not UTF-8"),
            (["RUN", "TEXT"], "a picture is no question"),
            (["RUN", "a b.PNG c", "d"], "mixc chat {run} 'a b.PNG c d'"),
            (["RUN", "a.jpg", "what", "is it?"], 'mixc chat {run} --image a.jpg "what is it?"'),
            (["RUN", "what", "is", "it?"], "mixc chat {run} 'what is it?'"),
        ],
    )
    def test_is_told(self, mixc, run, images, arguments, says) -> None:
        names = {"RUN": run, "TEXT": images / "text.png"}
        done = mixc("chat", *[os.fsdecode(names.get(each, each)) for each in arguments], status=2)
        assert done.stdout == "" and says.replace("{run}", str(run)) in done.stderr, done.stderr

    def test_of_a_batch(self, mixc, run, tmp_path) -> None:
        (tmp_path / "q.jsonl").write_text('{"question": "a"}\n{"question": 3}\n')
        (tmp_path / "a.jsonl").write_text("before")
        done = mixc("chat", run, "--batch", tmp_path / "q.jsonl", "-o", tmp_path / "a.jsonl", status=2)
        assert "q.jsonl:2" in done.stderr
        (tmp_path / "q.jsonl").write_text('{"question": "a"}\n')
        for out in (tmp_path, tmp_path / "none/a.jsonl"):
            done = mixc("chat", run, "--batch", tmp_path / "q.jsonl", "-o", out, status=2)
            assert "no file can be written there" in done.stderr
        assert (tmp_path / "a.jsonl").read_text() == "before"
        assert len(list(tmp_path.iterdir())) == 2


class Terminal:
    """A process on a terminal of its own, and what it has shown."""

    def __init__(self, *arguments: object, environment: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mixc", *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=REPO,
            env=dict(environment),
            # a session whose terminal this is: ctrl-C reaches it as it reaches a shell's command
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self.shown, self._seen = "", 0

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, text: str | None, seconds: float = 60) -> str:
        """What is shown from where this last stopped to `text`, or to the end."""
        start, end = self._seen, time.monotonic() + seconds
        while text is None or text not in self.shown[start:]:
            assert time.monotonic() < end, self.shown
            if not select.select([self._ours], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(self._ours, 4096)
            except OSError:  # the other end is closed
                data = b""
            if not data:
                assert text is None, self.shown
                break
            self.shown += data.decode(errors="replace")
        self._seen = len(self.shown) if text is None else self.shown.index(text, start) + len(text)
        return self.shown[start : self._seen]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(environment: Mapping[str, str], tokenizer: object) -> Iterator[type]:
    opened: list[Terminal] = []

    def start(*arguments: object) -> Terminal:
        opened.append(Terminal(*arguments, environment=environment))
        return opened[-1]

    yield start  # type: ignore[misc]
    for each in opened:
        each.close()


def children(process: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == process:
            found.append(int(stat.parent.name))
    return found


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_conversation(terminal, run: Path, images: Path) -> None:
    talk = terminal("chat", run, "--image", images / "one.png", *FEW)
    talk.until("sail-vl-tiny-v1 on cpu; an empty line or ctrl-D ends")
    talk.until("> ")
    talk.type("What is it?\n")
    first = talk.until("> ")
    assert first.startswith("What is it?\r\n") and len(first) > len("What is it?\r\n> ")
    talk.type("And <image>?\n")
    talk.until("error: the question has 1 <image> placeholder, and there are 0 images")
    talk.until("> ")
    talk.type("Sure?\n")
    talk.until("> ")
    talk.type("\x04")
    talk.until(None)
    assert talk.process.wait(30) == 0 and "Traceback" not in talk.shown


def test_what_is_piped_in_is_a_conversation(mixc: Mixc, run: Path) -> None:
    """Answers alone on stdout: the same to the same first question, and the second sees the first."""
    two = mixc("chat", run, *FEW, stdin="Hello\nHello\n").stdout
    one = mixc("chat", run, *FEW, stdin="Hello\n\nnever asked\n").stdout
    assert two.startswith(one) and len(two) > len(one) and "> " not in two


@pytest.mark.parametrize("when", ["loading", "typing", "answering"])
def test_ctrl_c_ends_it_and_the_program(terminal, run: Path, when: str) -> None:
    talk = terminal("chat", run, "--max-new-tokens", 30_000)
    if when == "loading":
        end = time.monotonic() + 60
        while not children(talk.process.pid):
            assert time.monotonic() < end
            time.sleep(0.01)
    else:
        talk.until("> ")
    (program,) = children(talk.process.pid)
    if when == "answering":
        talk.type("Hello\n")
        talk.until("\n")
    if when != "loading":
        time.sleep(0.5)  # until it waits, no sooner: between showing "> " and waiting Python does not see a signal
    talk.type("\x03")
    talk.until(None)
    assert talk.process.wait(30) == 130 and "Traceback" not in talk.shown
    assert gone(program)


def test_a_program_killed_in_a_conversation(terminal, run: Path) -> None:
    talk = terminal("chat", run, "--max-new-tokens", 30_000)
    talk.until("> ")
    (program,) = children(talk.process.pid)
    talk.type("Hello\n")
    talk.until("\n")
    os.kill(program, signal.SIGKILL)
    talk.until(None)
    assert talk.process.wait(30) == 2
    assert "the model's program has ended" in talk.shown and "SIGKILL" in talk.shown and "Traceback" not in talk.shown


def test_a_batch_that_is_interrupted_leaves_what_was_there(environment, run: Path, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "a"}\n')
    (tmp_path / "a.jsonl").write_text("before")
    arguments = ["chat", run, "--batch", tmp_path / "q.jsonl", "-o", tmp_path / "a.jsonl", "--max-new-tokens", 30_000]
    process = subprocess.Popen(
        [sys.executable, "-m", "mixc", *map(str, arguments)], cwd=REPO, env=dict(environment), stderr=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while not (programs := children(process.pid)) or len(list(tmp_path.iterdir())) < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and b"Traceback" not in errors
    assert (tmp_path / "a.jsonl").read_text() == "before" and len(list(tmp_path.iterdir())) == 2
    assert all(gone(each) for each in programs)
