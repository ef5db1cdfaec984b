"""The spec language, as types. Names are the user's; docstrings become docs/spec.md and the JSON Schema."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""A name for people: of a mixture, a source, a stage. It becomes part of file names and sample identity."""

Kind = Literal["caption", "ocr", "chat", "text"]
Unit = Literal["tokens", "supervised_tokens", "samples", "images"]
Module = Literal["vision", "projector", "language"]
Format = Literal["parquet", "jsonl", "json", "csv", "webdataset", "imagefolder", "huggingface"]
Share = Annotated[float, Meta(ge=0, le=1)]
MAX_REJECT_RATE = 0.1
"""Where a spec does not say another."""


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named set of rows."""

    path: str | list[str]
    """File, glob, folder (imagefolder, huggingface), or a list of them; relative to the spec, or a URL as
    `s3://bucket/key`. `**` crosses folders."""
    kind: Kind
    """caption and ocr: an image and its text, the text supervised. chat: a conversation, assistant turns
    supervised. text: a document, every token but its first supervised."""
    format: Format | None = None
    """Told by the file's name when absent: .parquet; .jsonl, .jsonl.gz, .jsonl.zst; .json; .csv, .tsv; .tar.
    imagefolder: images with captions beside them. huggingface: a folder that `save_to_disk` wrote."""
    columns: dict[str, str] | None = None
    """New names for columns, by the new name: `{caption: meta.captions.long}`. A dot goes into a nested value, a
    number picks an item of a list. The other keys, expressions and signals use the new names."""
    text: str | None = None
    """Column with the text (caption, ocr, text). In a tar: the member's extension. Default: text, or txt in
    a tar."""
    image: str | None = None
    """Column with the image: bytes, a Hugging Face image struct, a path, or a list of these. In a tar: the
    member's extensions; default jpg, jpeg, png, webp. In other formats the default is `image`."""
    image_root: str | None = None
    """Folder of image paths; default the folder of the file that names them. No path may leave it."""
    messages: str | None = None
    """Column with the conversation (chat): ShareGPT/LLaVA `from`/`value` or OpenAI `role`/`content`. Default
    conversations or messages."""
    messages_format: Literal["sharegpt", "llava", "openai"] | None = None
    """How the conversation is written; told by its first turn when absent. Rows in another form are rejected."""
    frames: str | None = None
    """Column with the sampled frames of a video, in order, in the place of `image`: one tile a frame, each
    introduced as `Frame-i: `."""
    max_frames: Annotated[int, Meta(ge=1, le=4096)] | None = None
    """Of more frames than this, so many are taken at even distances, the first and the last among them."""
    number_images: bool = False
    """Whether several images of a sample that names no place for them are introduced as `Image-1: `, `Image-2: `."""
    decode_images: bool = True
    """Whether every image is decoded once, whole, so that a damaged one is rejected here. false: only its header is
    read, which is much faster, and an image whose pixels are damaged stops the training run that meets it."""
    template: Name | None = None
    """Chat template; the model's when absent."""
    prompt: str | None = None
    """The user's turn before a caption or page; default by kind."""
    where: str | None = None
    """Which rows are eligible: one boolean DuckDB expression over columns and signals."""
    too_long: Literal["split", "drop"] | None = None
    """What to do with a sample longer than a stage's sequence_length: text can be split (its default); the
    rest is dropped with a reason."""
    evidence: dict[str, str] | None = None
    """Where the figures of this source come from, by key. For people; changes nothing."""


class Tiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Overrides of the model's dynamic tiling."""

    max: Annotated[int, Meta(ge=1, le=64)] | None = None
    """Tiles of an image's grid at most, thumbnail not counted."""
    thumbnail: bool | None = None
    """Whether an image of several tiles gets one more, the whole image."""


class Signal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signal with settings, or one of your own."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
    """How expressions call it."""
    function: str | None = None
    """`package.module:function` of your own, which computes it; docs/signals.md says how it is called."""
    version: str = "1"
    """Of your function: change it when its results change, and they are computed again."""
    settings: dict[str, str | int | float | bool] = {}
    """Passed to the signal."""


class MinHash(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    threshold: Annotated[float, Meta(ge=0.5, le=1)] = 0.8
    """Estimated Jaccard similarity of n-gram sets from which two texts are near-duplicates."""
    ngram: Annotated[int, Meta(ge=1, le=50)] = 5
    """Words of an n-gram; in scripts without spaces, characters."""
    permutations: Annotated[int, Meta(ge=16, le=1024)] = 128
    """Length of a signature."""


class ImageDedup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    phash: Annotated[int, Meta(ge=0, le=15)] = 4
    """Bits of 64 in which the perceptual hashes of two images may differ."""


class Dedup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    exact: bool = False
    """Drop samples whose whole content (text, roles, image bytes) equals another's, within and across
    sources."""
    minhash: MinHash | None = None
    """Drop samples whose text (all turns of a conversation) is nearly another's."""
    image: ImageDedup | None = None
    """Drop samples all of whose images are nearly those of another."""
    prefer: list[str] = []
    """Sources whose samples win over others', best first; then sources by name. Within a source the exact copy
    first by rank wins, of near-duplicates the least id."""


class Decontaminate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    against: str | list[str]
    """Benchmark files, as a source's `path`: of any format; every text and every image in them counts."""
    ngram: Annotated[int, Meta(ge=1, le=50)] | None = 13
    """Words of an n-gram; one that is shared drops the sample. 13 as GPT-3 (arXiv:2005.14165, appendix C)."""
    phash: Annotated[int, Meta(ge=0, le=15)] | None = None
    """Drop samples with an image whose perceptual hash differs from a benchmark image's in at most so many bits."""


class Balance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Resampling within a source, towards equal amounts for each value of `by`."""

    by: str
    """DuckDB expression over columns and signals: a class, a cluster, a language. NULL is a value of its own."""
    temperature: Annotated[float, Meta(ge=1)] | None = None
    """A value of n units gets a share in proportion to n^(1/temperature): 1 changes nothing; absent: equal
    shares. What a value cannot give within max_epochs goes to the others."""


class Quantile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Membership by rank."""

    by: str
    """DuckDB expression over columns and signals; samples where it is NULL are left out."""
    at_least: Share = 0.0
    """Of the samples sorted by `by`, those from this part on ..."""
    below: Share = 1.0
    """... to before this one: `{by: complexity, below: 0.5}` is the simpler half."""


class MixEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One source's part in a stage."""

    weight: Annotated[float, Meta(ge=0)] | None = None
    """Relative share of the stage, in the stage's unit; 0 only with a `mix_end`. Absent for every source of the
    stage: in proportion to size."""
    where: str | None = None
    """A further threshold, for this stage only."""
    max_epochs: Annotated[float, Meta(gt=0)] | None = None
    """Passes over the source's eligible samples at most. Default 1, or as many as the budget where it asks
    for more epochs than one."""
    quantile: Quantile | None = None
    """Only samples of these ranks, for this stage. Ranks are among those that pass every `where`."""
    balance: Balance | None = None
    """Resampling within the source."""
    held_out: bool = False
    """Take what the spec's `held_out` keeps of the source, and nothing else: for a spec to evaluate on."""


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The order of samples over a stage: shuffled, or by an expression; packed and shuffled in windows."""

    by: str | None = None
    """DuckDB expression over columns and signals; absent: shuffle. Samples where it is NULL come last."""
    direction: Literal["ascending", "descending"] = "ascending"
    """Of `by`."""
    window: str | int = "100k"
    """Samples a window. Packing and shuffling stay inside a window, so a small window keeps `by` sharp and a
    large one packs tighter."""
    steps: Literal["mixed", "alike"] = "mixed"
    """alike: the packs of a step cost alike, so that ranks of one or a few packs have equal work too; but a step is of
    one kind of data then, as text or pictures. mixed: as the shuffle has them, with ranks in balance from some six
    packs each."""


class AdaLRS(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Search the learning rate while training, by the slope of the loss (arXiv:2506.13274)."""

    window: Annotated[int, Meta(ge=8)] = 100
    """Steps that a slope is measured over. A default of ours: the paper's is not public."""
    up: Annotated[float, Meta(gt=1)] = 1.5
    """Factor of a step up: all rates times this, while the slope improves."""
    down: Annotated[float, Meta(gt=1)] = 1.43
    """Divisor of a step down, after weights and optimizer were set back."""
    decay: Annotated[float, Meta(gt=0, le=1)] = 0.99
    """By which up and down come nearer to 1 with every trial."""
    start: str | int = "10%"
    """The search begins here, as steps or as a percentage of the stage, ..."""
    end: str | int = "40%"
    """... and ends here, where the stage's own schedule goes on from the rates found."""


class Spikes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which steps are outliers, whose update is left out (as OLMo's skip-step optimizer)."""

    sigma: Annotated[float, Meta(gt=0)] = 6.0
    """Standard deviations above the mean of the last steps, in loss or in the gradient's norm."""
    window: Annotated[int, Meta(ge=8)] = 128
    """How many last steps. Before there are half as many, no step is an outlier."""


class Train(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the runtime trains a stage. What is not a published figure is a default of ours."""

    lr: dict[Module, Annotated[float, Meta(gt=0)]]
    """Peak learning rate by module. A module without one is frozen."""
    batch: Annotated[int, Meta(ge=1)]
    """Packs a step, over all ranks."""
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    """How the learning rates fall from their peaks after the warm-up. wsd: they stay, and fall in the end."""
    warmup: str | int = "3%"
    """Steps over which the learning rates rise from 0, or a percentage of the stage."""
    decay: str | int = "10%"
    """wsd: steps at the end over which the rates fall, in a line, or a percentage of the stage."""
    min_lr_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Share of the peak at which cosine, linear and wsd end."""
    layer_decay: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """The vision tower's rate is multiplied by this for each layer below its last."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    """AdamW's."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's."""
    eps: float = 1e-8
    """AdamW's."""
    clip: Annotated[float, Meta(ge=0)] = 1.0
    """Largest norm of the gradient of a step; 0 does not clip."""
    loss: Literal["token", "sample", "square"] = "token"
    """Weight of a supervised token in a sample of n: token 1, sample 1/n, square 1/sqrt(n) (InternVL 2.5)."""
    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Part of a target's probability that is spread over the vocabulary."""
    z_loss: Annotated[float, Meta(ge=0)] = 0.0
    """Weight of the squared log of the softmax's denominator, which keeps logits small (PaLM's is 1e-4)."""
    router_loss: Annotated[float, Meta(ge=0)] = 0.001
    """Weight of the loss that keeps a mixture of experts in balance; dense models have none."""
    drop_path: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Chance that a sample's tile skips a block of the vision tower's last layer; less in a line towards the first."""
    ema: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """Decay of an average of the weights over the steps, saved beside them; none without."""
    spikes: Spikes | None = None
    """Leave out steps whose loss or gradient is an outlier. Those that are not finite are always left out."""
    adalrs: AdaLRS | None = None
    """Search the learning rate in the first part of the stage."""


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training stage: a mix, a budget, an order."""

    name: Name
    """Names the stage in `--set`, in reports and to `mixc train --stages`."""
    budget: str | int
    """`4B tokens`, `16M samples`, `2 epochs`. A bare number counts the stage's unit. One epoch is one pass
    over all that is eligible, divided by the shares."""
    mix: dict[str, float | MixEntry] | list[str]
    """Share by source or group; or a list of them, proportional to their sizes."""
    sequence_length: Annotated[int, Meta(ge=16, le=1 << 20)]
    """Tokens of a pack at most."""
    train: Train
    """How the runtime trains the stage."""
    unit: Unit = "tokens"
    """What the shares count."""
    mix_end: dict[str, Annotated[float, Meta(ge=0)]] | None = None
    """Shares at the stage's end, for every source or group of `mix`; `mix` then gives those at its start."""
    mix_schedule: Literal["linear", "cosine"] = "linear"
    """How the shares go from `mix` to `mix_end`."""
    temperature: Annotated[float, Meta(ge=1)] = 1.0
    """Shares are in proportion to weight^(1/temperature): above 1 they are more even. Without weights, sizes."""
    reuse: bool = False
    """Whether the stage may take samples that an earlier stage took. Without, they count as used: max_epochs
    holds over all stages together."""
    max_tiles: Annotated[int, Meta(ge=1)] | None = None
    """Tiles of a pack at most, thumbnails counted; default sequence_length / tokens a tile."""
    order: Literal["shuffle"] | Order = "shuffle"
    """The order of the stage's samples."""
    on_exhausted: Literal["fail", "repeat", "renormalise", "shorten"] = "fail"
    """When a source cannot fill its share within max_epochs: fail and name the shortfall; repeat beyond the
    cap; give its missing part to the others; or shorten the stage until every share can be met."""
    evidence: dict[str, str] | None = None
    """Where the figures of this stage come from, by key. For people; changes nothing."""


class ContinueFrom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The point of another build's training from which this spec goes on. What was trained up to there counts
    as used."""

    build: str
    """Folder of the build, relative to the spec."""
    stage: Name
    """Of that build: it and the stages before it were trained ..."""
    step: Annotated[int, Meta(ge=0)]
    """... this one up to before this step."""


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mixture spec."""

    mixture: Name
    """The mixture's name."""
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    """Every random choice is a pure function of this, the stage, the epoch and the sample."""
    model: Name
    """Fixes the tile rule, tokens a tile, special tokens and chat template."""
    sources: dict[Name, Source]
    """The data, by names of your choice."""
    stages: list[Stage]
    """The training stages, in their order."""
    extends: str | None = None
    """Another spec, merged under this one: mappings by key, `stages` by name."""
    tokenizer: str = "qwen2.5"
    """A name, a folder with a tokenizer.json, or that file."""
    tiles: Tiles = Tiles()
    """How images are cut into tiles, where it should differ from the model's rule."""
    groups: dict[Name, dict[str, Annotated[float, Meta(gt=0)]] | list[str]] = {}
    """Sources under one name for mixes: shares within the group, or a list, in proportion to sizes. A group may
    hold groups."""
    signals: list[str | Signal] = []
    """Numbers and labels computed of every sample, for expressions: names out of docs/signals.md, or your own."""
    dedup: Dedup = Dedup()
    """Which samples count as the same."""
    decontaminate: Decontaminate | None = None
    """Drop samples that share something with a benchmark."""
    held_out: dict[str, str] = {}
    """By source: how much no stage may touch, as `500 samples` or `1%`, for evaluation. Nor may a stage touch a
    sample of equal content from another source."""
    continue_from: ContinueFrom | None = None
    """Go on from the middle of another build's run."""
    max_reject_rate: Annotated[float, Meta(ge=0, le=1)] = MAX_REJECT_RATE
    """The compile fails when more than this share of a source's rows is unusable."""
    evidence: dict[str, str] | None = None
    """Where the figures come from, by key. For people; changes nothing."""
