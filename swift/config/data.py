"""Which rows, and how they become batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.config.fields import at_least, between, named, option


@dataclass
class DataConfig:
    """Options of the data."""

    dataset: list[str] = option(
        help="Data sets: self-cognition, files, folders, patterns or hub ids; :subset, @split and #N rows may follow.",
        factory=list,
        check=named,
    )
    val_dataset: list[str] = option(help="Data sets for evaluation.", factory=list, check=named)
    split_dataset_ratio: float = option(
        0.0,
        "Share of --dataset kept for evaluation when there is no --val_dataset.",
        check=between(0, 0.999),
        needs=("dataset",),
    )
    custom_dataset_info: list[str] = option(
        help="Tables of your own data sets (JSON), which --dataset then takes by name.",
        factory=list,
        needs=("dataset",),
    )
    columns: dict[str, str] | None = option(
        None, 'Column names of the data to ours, as JSON: {"question": "query"}.', needs=("dataset",)
    )
    disable_auto_column_mapping: bool = option(
        False, "Know each column by our own name alone, not by the others it often goes by.", needs=("dataset",)
    )
    strict: bool = option(
        True,
        "Stop when a row cannot be used; false drops such rows, counts them and writes them to dropped.jsonl.",
        why="ms-swift drops them; a silent loss of data is found too late",
        needs=("dataset",),
    )
    dataset_shuffle: bool = option(
        True, "Shuffle rows before #N takes its share and before the split.", needs=("dataset",)
    )
    val_dataset_shuffle: bool = option(False, "The same for --val_dataset.", needs=("val_dataset",))
    train_dataloader_shuffle: bool = option(True, "Shuffle samples in each epoch.")
    interleave_prob: list[float] = option(
        help="Draw from the data sets of --dataset by these weights, one each; unset lays them one after another.",
        factory=list,
        needs=("dataset",),
    )
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = option(
        "first_exhausted",
        "Drawing by weight ends when one data set has given all its rows, or when each has.",
        needs=("interleave_prob",),
    )
    dataset_num_proc: int = option(1, "Processes that tokenise.", check=at_least(1), needs=("dataset",))
    load_from_cache_file: bool = option(
        True,
        "Keep tokenised rows in the cache ($SWIFT_DATASET_CACHE) and take them from there.",
        aliases=("dataset_cache",),
        why="ms-swift tokenises again in each run; the cache is keyed by all that tokens hang on",
        needs=("dataset",),
    )
    cached_dataset: list[str] = option(
        help="Train from what swift prepare made, in place of --dataset: its folders.", factory=list, check=named
    )
    cached_val_dataset: list[str] = option(
        help="Evaluate on what swift prepare made: its folders.", factory=list, check=named
    )
    model_name: list[str] = option(
        help="Fills {{NAME}} in self-cognition data: one name, or an English one and a Chinese one.",
        factory=list,
        needs=("dataset",),
    )
    model_author: list[str] = option(help="Fills {{AUTHOR}} likewise.", factory=list, needs=("dataset",))
    packing: bool = option(False, "Put several samples into one sequence, without leaks between them.")
    packing_length: int | None = option(
        None, "Length of a pack; unset means --max_length.", unit="tokens", check=at_least(1), needs=("packing",)
    )
    packing_strategy: Literal["binpack", "sequential"] = option(
        "binpack", "Fill packs best-fit, or in the order of the data.", needs=("packing",)
    )
    padding_free: bool = option(False, "Lay the samples of a batch end to end instead of padding them.")


@dataclass
class TrainDataConfig(DataConfig):
    """Options of the data in training, where samples can be made while the run goes on."""

    group_by_length: bool = option(
        False,
        "Put samples of like length into a step, and of these the likest into a micro-batch, so that less is padded; "
        "steps come in random order, the one with the longest sample first.",
        needs=("train_dataloader_shuffle",),
    )
    streaming: bool = option(
        False,
        "Read and tokenise rows one by one while the run goes on, over and over until --max_steps.",
    )
    shuffle_buffer_size: int = option(
        1000,
        "Rows among which a stream draws the next one; --dataset_shuffle false keeps the order of the data.",
        unit="rows",
        check=at_least(1),
        needs=("streaming",),
    )
    lazy_tokenize: bool = option(
        False, "Read and check rows before the run, and tokenise them in its data workers while it goes on."
    )
