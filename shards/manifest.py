"""The manifest: what the runtime reads first, and the root digest that names a build.

`manifest.json` is `{"checksum": <blake3 of the manifest's canonical JSON>, "manifest": {...}}`, written once,
last, by atomic rename of the whole build. The *root* covers all that a training run sees and nothing else;
the manifest also holds what is needed to find and check files: names, sizes, checksums.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from blake3 import blake3

from shards.atomic import atomic_write
from shards.digest import canonical_json, digest
from shards.errors import ShardError
from shards.handles import open_file
from shards.layout import MANIFEST, is_inside
from shards.recognise import recognise
from shards.store import Place

FORMAT_VERSION = 2
"""How a build is written. A reader of another version refuses it."""
IDENTITY_VERSION = 1
"""What a root and a pack's digest are taken over: it moves only when equal training would get another root."""
MAX_MANIFEST_BYTES = 1 << 28
"""A larger file is refused unread. A shard takes about 400 bytes, so this is some 600,000 shards."""


class Geometry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What compiler and model must agree on. `name` is the model's; the rest fixes how an image becomes
    tokens."""

    name: str
    tile_size: int
    """Side of a tile in pixels."""
    tokens_per_tile: int
    max_tiles: int
    """Tiles of the grid at most, thumbnail not counted."""
    min_tiles: int
    thumbnail: bool
    """Add the whole image as a last tile when the grid has more than one."""
    vocab_size: int
    """Rows of the embedding table; every id is below it."""
    image_start_id: int
    image_end_id: int
    image_context_id: int
    pad_id: int


ROUTER_LOSS = 0.001
"""Weight of the balance loss of experts where a stage does not say another: router_aux_loss_coef of the recipe that is published for
Qwen3-30B-A3B."""


class SpikeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a step is an outlier."""

    sigma: float
    window: int
    """Steps."""


class SearchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """AdaLRS: where the learning rate is searched, and by which factors."""

    window: int
    """Steps, as the others."""
    up: float
    down: float
    decay: float
    start: int
    end: int


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A stage's training settings, resolved: no percentages, no defaults left to the runtime.

    Those that have a default here came later, and stand in a manifest only where they say something.
    """

    lr: dict[str, float]
    """Peak learning rate by module, of `vision`, `projector`, `language`. A module that is absent is
    frozen."""
    schedule: Literal["constant", "cosine", "linear", "wsd"]
    warmup_steps: int
    min_lr_ratio: float
    """The schedule ends at this share of the peak."""
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    clip: float
    """Global gradient norm limit; 0 is off."""
    loss: Literal["token", "sample", "square"]
    """How `weight` in the packs was computed; the runtime only multiplies."""
    # None says nothing: what is left out has the value that does nothing, or for the router's loss the published one. A number as a
    # default would be left out or not by which object it is (msgspec's `omit_defaults`).
    decay_steps: int | None = None
    """Of wsd: its last steps, over which the rates fall."""
    layer_decay: float | None = None
    """Of the vision tower's rate, by layer below the last; 1."""
    label_smoothing: float | None = None
    z_loss: float | None = None
    router_loss: float | None = None
    """ROUTER_LOSS."""
    drop_path: float | None = None
    ema: float | None = None
    spikes: SpikeSettings | None = None
    adalrs: SearchSettings | None = None


class ShardEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One token shard: frames of one pack each."""

    name: str
    """Path relative to the build."""
    packs: int
    bytes: int
    digest: str
    """blake3 over the pack digests (32 bytes each, in order)."""
    seek: str
    """blake3 of the seek-table frame as stored, so that a reader that has not inflated the shard can trust
    it."""
    file: str
    """blake3 of the file as stored."""


class SourceShare(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one source gave to one stage. Counts with repetition."""

    wished: float
    """Share asked for, of the stage's unit; all of a stage's add up to 1."""
    met: float
    epochs: float
    """Passes over the source's eligible samples."""
    samples: int
    tokens: int
    supervised_tokens: int
    images: int
    tiles: int


class StageEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    batch: int
    """Packs a step. Every step has exactly this many; some packs of the last step may be empty."""
    sequence_length: int
    max_tiles: int
    """Tiles of one pack at most, thumbnails counted."""
    steps: int
    packs: int
    samples: int
    tokens: int
    supervised_tokens: int
    images: int
    tiles: int
    unit: str
    sources: dict[str, SourceShare]
    train: TrainSettings
    digest: str
    """blake3 over all pack digests of the stage, in order: independent of the division into shards."""
    steps_file: str
    """STEP_DTYPE records (shards/steps.py), one a step."""
    steps_digest: str
    shards: list[ShardEntry]


class MediaShardEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    bytes: int
    images: int
    file: str
    """blake3 of the file as stored."""


class MediaEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Encoded images, once each, in plain tar files in order of first use; `index` finds one by digest."""

    images: int
    bytes: int
    """Of the images, without the tar files' headers."""
    index: str
    index_file: str
    """blake3 of the index file."""
    shards: list[MediaShardEntry]


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An auxiliary file (lock, plan tables, rejects): checked by `verify`, never read by training."""

    bytes: int
    file: str


class Continues(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The point of another build's training from which this build goes on."""

    root: str
    """Of the other build."""
    stage: str
    step: int
    """The first step of that stage that was not trained."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    format: int
    mixture: str
    seed: int
    root: str
    geometry: Geometry
    tokenizer: str
    """Digest of the tokenizer's definition."""
    template: str
    """Digest of the chat template."""
    stages: list[StageEntry]
    media: MediaEntry
    files: dict[str, FileEntry]
    continues: Continues | None = None
    """Absent from the file when None. Not in the root: it says where training starts, as weights do."""


def stage_digest(pack_digests: Iterable[bytes]) -> str:
    """blake3, in hex, over pack digests (32 bytes each) in order: of a stage, or of a shard's part of one."""
    hasher = blake3()
    for pack in pack_digests:
        hasher.update(pack)
    return hasher.hexdigest()


def root_digest(
    *,
    seed: int,
    geometry: Geometry,
    tokenizer: str,
    template: str,
    stages: Sequence[StageEntry],
) -> str:
    """The name of a build for machines: blake3 over the canonical JSON of all that a training run sees.

    Packs name images by digest, so the stages' digests cover the media too. Shard sizes, file names, sources'
    names and wished shares are not in it: two builds that train alike have the same root.
    """
    covered = ("name", "batch", "sequence_length", "max_tiles", "steps", "train", "digest", "steps_digest")
    return digest(
        canonical_json(
            {
                "format": IDENTITY_VERSION,
                "seed": seed,
                "geometry": geometry,
                "tokenizer": tokenizer,
                "template": template,
                "stages": [{field: getattr(stage, field) for field in covered} for stage in stages],
            }
        )
    )


def with_root(manifest: Manifest) -> Manifest:
    """`manifest` with the root that its own fields give."""
    root = root_digest(
        seed=manifest.seed,
        geometry=manifest.geometry,
        tokenizer=manifest.tokenizer,
        template=manifest.template,
        stages=manifest.stages,
    )
    return msgspec.structs.replace(manifest, root=root)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder`/manifest.json, atomically: the last act of a build. Raises ShardError when
    `read_manifest` would."""
    path = folder / MANIFEST
    data = _encode(manifest)
    _decode(path, data)
    with atomic_write(path) as file:
        file.write(data)


def read_manifest(folder: Place) -> Manifest:
    """The manifest of the build in `folder`, wholly checked: its bytes against its checksum and its one
    encoding, its root and its own sums. Raises ShardError, saying which."""
    path = folder / MANIFEST
    if isinstance(path, Path) and not path.exists():
        if isinstance(folder, Path) and (known := recognise(folder)):
            raise ShardError(f"{folder}: not a build: {known}")
        raise ShardError(f"{path}: missing: not a build, or one that was never finished")
    file = open_file(path)
    if file.size > MAX_MANIFEST_BYTES:
        raise ShardError(f"{path}: {file.size} bytes, more than a manifest may have")
    return _decode(path, file.read_at(0, file.size, "manifest"))


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    checksum: str
    manifest: msgspec.Raw


class _Version(msgspec.Struct):
    format: int


def _encode(manifest: Manifest) -> bytes:
    body = canonical_json(manifest)
    return canonical_json({"checksum": digest(body), "manifest": msgspec.Raw(body)})


def _decode(path: Place, data: bytes) -> Manifest:
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        body = bytes(envelope.manifest)
        if digest(body) != envelope.checksum:
            raise ShardError(f"{path}: blake3 is {digest(body)}, its checksum says {envelope.checksum}: corrupt")
        version = msgspec.json.decode(body, type=_Version).format
        if version != FORMAT_VERSION:
            raise ShardError(
                f"{path}: a build of format version {version}; this program reads {FORMAT_VERSION}"
                + (": a newer program is needed" if version > FORMAT_VERSION else "")
            )
        manifest = msgspec.json.decode(body, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ShardError(f"{path}: not a whole manifest, or a corrupt one: {error}") from error
    if _encode(manifest) != data:
        raise ShardError(f"{path}: not in canonical encoding: corrupt, or edited")
    if with_root(manifest).root != manifest.root:
        raise ShardError(f"{path}: its fields give root {with_root(manifest).root}, it says {manifest.root}")
    if fault := _fault(manifest):
        raise ShardError(f"{path}: {fault}")
    return manifest


_DIGEST = re.compile(r"[0-9a-f]{64}")


def _fault(manifest: Manifest) -> str | None:
    """What in `manifest` contradicts itself, in words."""
    files = [(name, file.file) for name, file in manifest.files.items()]
    files.append((manifest.media.index, manifest.media.index_file))
    files += [(shard.name, shard.file) for shard in manifest.media.shards]
    digests = {}
    for stage in manifest.stages:
        files.append((stage.steps_file, stage.steps_digest))
        files += [(shard.name, shard.file) for shard in stage.shards]
        digests[f"stage {stage.name}"] = stage.digest
        digests |= {shard.name: shard.digest for shard in stage.shards}
        if stage.batch < 1 or stage.packs != stage.steps * stage.batch:
            return f"stage {stage.name}: {stage.packs} packs are not {stage.steps} steps of {stage.batch}"
        if stage.packs != sum(shard.packs for shard in stage.shards):
            return f"stage {stage.name}: {stage.packs} packs, but its shards hold another number"
    for name, file in files:
        if not is_inside(name) or name == MANIFEST:
            return f"{name!r} is not the path of a file inside a build"
        if not _DIGEST.fullmatch(file):
            return f"{name}: {file!r} is not a digest"
    for what, value in digests.items():
        if not _DIGEST.fullmatch(value):
            return f"{what}: {value!r} is not a digest"
    if len({name for name, _ in files}) != len(files):
        return "two files have one name"
    if (point := manifest.continues) and not (_DIGEST.fullmatch(point.root) and point.step >= 0):
        return f"it continues step {point.step} of root {point.root!r}, which is no point of a training"
    if len({stage.name for stage in manifest.stages}) != len(manifest.stages):
        return "two stages have one name"
    if manifest.media.images != sum(shard.images for shard in manifest.media.shards):
        return "its media shards do not hold the number of images that it names"
    return None
