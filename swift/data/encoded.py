"""Encoded samples in flat arrays, so that they take little more memory than their tokens."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from swift.data.drops import Dropped
from swift.rows import EncodedRow, Source


class EncodedDataset:
    """Encoded samples by number.

    Args:
        samples: the samples, in order; an iterator is read once and not kept.
        rows: how many source rows they came from; unset means one each.
        dropped: rows and samples that were left out.

    Attributes:
        ids, labels: int32[tokens], all samples end to end; weights: float32[tokens], or None.
        offsets: int64[samples + 1], where each sample starts.
        lengths: int32[samples], tokens of each.
        trained: int32[samples], tokens of each that carry loss.
        names: names of sources and channels; source_names, source_lines: int32 and int64[samples], -1 for none.
        channels: int32[samples], the number in `names` of each sample's channel, -1 for none.
        targets: float32[values], the samples' targets end to end; None where tokens are trained.
        target_sizes: int32[samples], how many of them each sample has.
        rows: source rows.
        dropped: what was left out, and why.
        weighted: whether any sample carries loss weights.
    """

    def __init__(
        self, samples: Iterable[EncodedRow] = (), *, rows: int | None = None, dropped: Sequence[Dropped] = ()
    ) -> None:
        store = _Store()
        for sample in samples:
            store.add(sample)
        self._fill(store, rows, dropped)

    @classmethod
    def join(
        cls, parts: Iterable[EncodedDataset], *, rows: int | None = None, dropped: Sequence[Dropped] = ()
    ) -> EncodedDataset:
        """The samples of several, in order; each part may be let go once it is read."""
        store = _Store()
        for part in parts:
            store.extend(part)
        whole = cls.__new__(cls)
        whole._fill(store, rows, dropped)
        return whole

    @classmethod
    def over(
        cls,
        ids: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray | None,
        *,
        lengths: np.ndarray,
        trained: np.ndarray,
        names: Sequence[str],
        source_names: np.ndarray,
        source_lines: np.ndarray,
        channels: np.ndarray,
        rows: int,
        dropped: Sequence[Dropped] = (),
        targets: np.ndarray | None = None,
        target_sizes: np.ndarray | None = None,
    ) -> EncodedDataset:
        """A data set over arrays that are there, such as memory-mapped ones."""
        whole = cls.__new__(cls)
        whole._set(
            ids, labels, weights, lengths, trained, list(names), source_names, source_lines, channels, rows, dropped
        )
        whole._aim(targets, target_sizes)
        return whole

    def _set(
        self,
        ids: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray | None,
        lengths: np.ndarray,
        trained: np.ndarray,
        names: list[str],
        source_names: np.ndarray,
        source_lines: np.ndarray,
        channels: np.ndarray,
        rows: int,
        dropped: Sequence[Dropped],
    ) -> None:
        self.ids, self.labels, self.weights, self.lengths, self.trained = ids, labels, weights, lengths, trained
        # A run may hold more than 2^31 tokens, so the places need 64 bits.
        self.offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=self.offsets[1:])
        self.names, self.source_names, self.source_lines = names, source_names, source_lines
        self.channels, self.rows, self.dropped = channels, rows, dropped

    def _aim(self, targets: np.ndarray | None, sizes: np.ndarray | None) -> None:
        self.targets, self.target_sizes = targets, sizes
        self._target_offsets = np.zeros(1, np.int64) if sizes is None else np.cumsum([0, *sizes], dtype=np.int64)

    def _fill(self, store: _Store, rows: int | None, dropped: Sequence[Dropped]) -> None:
        self._set(
            np.frombuffer(store.ids, dtype=np.int32) if store.ids else np.zeros(0, np.int32),
            np.frombuffer(store.labels, dtype=np.int32) if store.labels else np.zeros(0, np.int32),
            np.frombuffer(store.weights, dtype=np.float32) if store.weights else None,
            np.array(store.lengths, dtype=np.int32),
            np.array(store.trained, dtype=np.int32),
            list(store.names),
            np.array(store.source_names, dtype=np.int32),
            np.array(store.source_lines, dtype=np.int64),
            np.array(store.channels, dtype=np.int32),
            len(store.lengths) if rows is None else rows,
            list(dropped),
        )
        aimed = len(store.target_sizes) > 0
        self._aim(
            np.array(store.targets, dtype=np.float32) if aimed else None,
            np.array(store.target_sizes, dtype=np.int32) if aimed else None,
        )

    @property
    def weighted(self) -> bool:
        """Whether any sample carries loss weights."""
        return self.weights is not None

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> EncodedRow:
        """Sample `index`: views into the arrays, not to be written to."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        span = slice(self.offsets[index], self.offsets[index + 1])
        weights = None if self.weights is None else self.weights[span]
        return EncodedRow(self.ids[span], self.labels[span], self.source(index), weights, target=self.target(index))

    def target(self, index: int) -> np.ndarray | None:
        """What sample `index` as a whole is to give; None where its tokens are trained."""
        if self.targets is None:
            return None
        return self.targets[self._target_offsets[index] : self._target_offsets[index + 1]]

    def source(self, index: int) -> Source | None:
        """The row that sample `index` came from."""
        name = int(self.source_names[index])
        return None if name < 0 else Source(self.names[name], int(self.source_lines[index]))

    def channel(self, index: int) -> str | None:
        """The channel of the row that sample `index` came from."""
        return None if self.channels[index] < 0 else self.names[self.channels[index]]


class _Store:
    """Growing flat arrays; `array` grows in place, where joining a list of arrays holds everything twice."""

    def __init__(self) -> None:
        self.ids, self.labels, self.weights = array("i"), array("i"), array("f")
        self.lengths, self.trained = array("i"), array("i")
        self.names: dict[str, int] = {}
        self.source_names, self.source_lines, self.channels = array("i"), array("q"), array("i")
        self.targets, self.target_sizes = array("f"), array("i")

    def add(self, sample: EncodedRow) -> None:
        """Append one sample."""
        self._weigh(sample.weights, len(sample.input_ids))
        self.ids.frombytes(_bytes(sample.input_ids, np.int32))
        self.labels.frombytes(_bytes(sample.labels, np.int32))
        self.lengths.append(sample.length)
        self.trained.append(sample.trained)
        name = -1 if sample.source is None else self.names.setdefault(sample.source.name, len(self.names))
        self.source_names.append(name)
        self.source_lines.append(-1 if sample.source is None else sample.source.line)
        named = sample.channel is not None
        self.channels.append(self.names.setdefault(str(sample.channel), len(self.names)) if named else -1)
        if sample.target is not None:
            self.targets.frombytes(_bytes(sample.target, np.float32))
            self.target_sizes.append(len(sample.target))

    def extend(self, part: EncodedDataset) -> None:
        """Append all samples of a part."""
        self._weigh(part.weights, len(part.ids))
        self.ids.frombytes(_bytes(part.ids, np.int32))
        self.labels.frombytes(_bytes(part.labels, np.int32))
        self.lengths.extend(part.lengths.tolist())
        self.trained.extend(part.trained.tolist())
        renamed = [self.names.setdefault(name, len(self.names)) for name in part.names]
        self.source_names.extend(-1 if name < 0 else renamed[name] for name in part.source_names.tolist())
        self.source_lines.extend(part.source_lines.tolist())
        self.channels.extend(-1 if name < 0 else renamed[name] for name in part.channels.tolist())
        if part.targets is not None and part.target_sizes is not None:
            self.targets.frombytes(_bytes(part.targets, np.float32))
            self.target_sizes.extend(part.target_sizes.tolist())

    def _weigh(self, weights: np.ndarray | None, tokens: int) -> None:
        """Append weights before the ids; samples without any weigh 1 once one sample has some."""
        if weights is None and not self.weights:
            return
        if not self.weights:
            self.weights.frombytes(np.ones(len(self.ids), np.float32).tobytes())
        self.weights.frombytes(_bytes(np.ones(tokens) if weights is None else weights, np.float32))


def _bytes(values: np.ndarray, dtype: type[np.generic]) -> bytes:
    return np.ascontiguousarray(values, dtype=dtype).tobytes()
