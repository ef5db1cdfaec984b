"""WebDataset tars: the members of a sample share their name up to the first dot of the base name, and are
adjacent.

`000123.jpg`, `000123.txt` and `000123.json` are one sample with an image, a text and scalar columns. Names
are labels here: none is ever a path on this machine.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from mixc.sources.files import open_binary
from mixc.sources.formats.json_value import BadJSONError, parse
from mixc.sources.formats.tar import Member, TarError, members
from mixc.sources.images import IMAGE_BYTES_LIMIT, IMAGES_LIMIT, SAMPLE_BYTES_LIMIT
from mixc.sources.names import Names, image_extensions, names
from mixc.sources.raw import ROW_BYTES_LIMIT, RawRow, reject
from mixc.sources.rename import rename
from mixc.sources.sample import Reason, Reject
from mixc.spec.schema import Source

_NUMBERED = re.compile(r"[0-9]{1,9}\.(.+)", re.DOTALL)


def rows(path: str, source: Source) -> Iterator[RawRow | Reject]:
    """The samples of a tar, in order. Raises OSError.

    Values of a row: the fields of its `json` member; its text member, decoded, under `source.text` or `txt`;
    its image members, by their numbers (`0.jpg`, `1.jpg`) or else in the tar's order, as a list of bytes under `image`. Members that the source does not
    ask for, that are not regular files or whose base name has no extension or begins with a dot are passed
    over. Where the tar breaks off, the samples before it are kept and one Reject follows, which stands for
    the sample that is cut.
    """
    wanted = names(source, "webdataset")
    row = 0
    group: _Group | None = None
    with open_binary(path) as file:
        try:
            for member in members(file):
                parts = split(member.name)
                if parts is None or not member.plain:
                    continue
                key, extension = parts
                if group is not None and group.key != key:
                    yield group.finish()
                    row, group = row + 1, None
                if group is None:
                    group = _Group(row, key, source, wanted)
                group.add(extension, member)
        except TarError as error:
            # a group is whole when the archive ends after it, or in a member of another key
            cut = split(error.name) if error.name is not None else None
            if group is not None and (error.whole or (cut is not None and cut[0] != group.key)):
                yield group.finish()
                row += 1
            yield reject(row, "broken_row", f"nothing after row {row} can be read: {error}")
            return
        if group is not None:
            yield group.finish()


def split(name: str) -> tuple[str, str] | None:
    """A member's key and extension in lower case; None when it has no part in a sample."""
    base = name[name.rfind("/") + 1 :]
    dot = base.find(".")
    if dot <= 0:
        return None
    return name[: len(name) - len(base) + dot], base[dot + 1 :].lower()


def _number(extension: str) -> int:
    """The number of an image member: 2 of `2.jpg`; -1 without one."""
    numbered = _NUMBERED.fullmatch(extension)
    return int(extension.partition(".")[0]) if numbered else -1


class _Group:
    """The members of one sample. What is wrong with it is kept, so that its other members are passed over
    unread."""

    def __init__(self, row: int, key: str, source: Source, wanted: Names) -> None:
        self.row, self.key = row, key
        self._wanted = wanted
        self._columns = source.columns
        self._text = self._columns.get(wanted.text, wanted.text) if self._columns and wanted.text else wanted.text
        self._text_is_default = source.text is None
        self._image_extensions = image_extensions(source) if wanted.image else ()
        self._seen: set[str] = set()
        self._unread: list[str] = []
        self._fields: dict[str, object] = {}
        self._members: dict[str, object] = {}
        self._images: list[tuple[int, bytes]] = []
        self._image_bytes = 0
        self._wrong: tuple[Reason, str] | None = None

    def add(self, extension: str, member: Member) -> None:
        if self._wrong is not None:
            return
        if extension in self._seen:
            self._wrong = ("broken_row", f"sample {self.key!a} has two members .{extension}")
            return
        self._seen.add(extension)
        if extension == self._text:
            self._add_text(extension, member)
        elif extension == "json":
            self._add_json(member)
        elif self._is_image(extension):
            self._add_image(extension, member)
        elif len(self._unread) < 64:
            self._unread.append(extension)

    def finish(self) -> RawRow | Reject:
        place = f"sample {self.key}"
        if self._wrong is not None:
            return reject(self.row, *self._wrong, place)
        values = dict(rename(self._fields | self._members, self._columns))
        if self._wanted.text and self._text_is_default and self._wanted.text not in values and "text" in values:
            values[self._wanted.text] = values.pop("text")
        if self._wanted.image:
            values.pop(self._wanted.image, None)  # a path in json is not an image of this tar
            if self._images:
                ordered = sorted(self._images, key=lambda image: image[0])  # stable: without a number, the tar's order
                values[self._wanted.image] = [content for _, content in ordered]
        return RawRow(row=self.row, values=values, unread=tuple(self._unread), place=place)

    def _is_image(self, extension: str) -> bool:
        numbered = _NUMBERED.fullmatch(extension)
        return extension in self._image_extensions or (numbered is not None and numbered[1] in self._image_extensions)

    def _add_text(self, extension: str, member: Member) -> None:
        if self._fits(member, ROW_BYTES_LIMIT, "broken_row"):
            content = member.read().removeprefix(codecs.BOM_UTF8)
            self._members[extension] = content.decode("utf-8", "surrogateescape")

    def _add_json(self, member: Member) -> None:
        if not self._fits(member, ROW_BYTES_LIMIT, "broken_row"):
            return
        try:
            value = parse(member.read().removeprefix(codecs.BOM_UTF8).decode())
        except UnicodeDecodeError as error:
            self._wrong = ("not_utf8", f"{member.name!a}, byte {error.start + 1}: {error.reason}")
        except BadJSONError as error:
            self._wrong = ("broken_row", f"{member.name!a}: {error}")
        else:
            if isinstance(value, dict):
                self._fields = value
            else:
                self._wrong = ("wrong_type", f"{member.name!a} is {type(value).__name__}, not an object")

    def _add_image(self, extension: str, member: Member) -> None:
        self._image_bytes += member.size
        if self._image_bytes > SAMPLE_BYTES_LIMIT or len(self._images) == IMAGES_LIMIT:
            self._wrong = (
                "image_bomb",
                f"sample {self.key!a} has more than {IMAGES_LIMIT} images or {SAMPLE_BYTES_LIMIT >> 20} MiB",
            )
        elif self._fits(member, IMAGE_BYTES_LIMIT, "image_bomb"):
            number = -1 if extension in self._image_extensions else _number(extension)
            self._images.append((number, member.read()))

    def _fits(self, member: Member, limit: int, reason: Reason) -> bool:
        if member.size <= limit:
            return True
        self._wrong = (reason, f"{member.name!a} has {member.size} bytes, at most {limit >> 20} MiB")
        return False
