"""Token classification: a tag for every token of a sentence; entities are scored whole."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from electra_ds.errors import DataError
from electra_ds.files import atomic_write
from electra_ds.finetune import conll
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.conll import Sentence
from electra_ds.finetune.models import require_offsets
from electra_ds.finetune.tasks.base import Encoded, Scored, Split, Task

if TYPE_CHECKING:
    import numpy as np

IGNORED = -100
"""Label of positions that the loss leaves out."""


class Tagging(Task):
    """Sentences in, BIO tags out; a token's first piece carries its tag.

    A sentence that is longer than the model takes is split into overlapping windows, and every token is trained on and
    predicted once, in the window where it stands farthest from an edge.
    """

    auto_model = "AutoModelForTokenClassification"
    head = "first piece of each token, dropout, linear"
    metrics = ("f1", "precision", "recall", "accuracy")
    units = "sentences"
    ending = "conll"

    def __init__(self, config: FinetuneConfig):
        super().__init__(config)
        self.labels: tuple[str, ...] = ()
        self.scheme: str = config.tag_scheme

    def read_split(self, name: str, source: str) -> Split:
        """See `Task.read_split`."""
        config = self.config
        tokens, tags = (None if column == "" else column for column in (config.text_column, config.label_column))
        read = conll.read_sentences(source, config.format, tokens, tags, config.bad_rows == "drop")
        sentences = read.sentences
        may_lack = name not in ("train", "validation")
        labelled = all(sentence.tags is not None for sentence in sentences)
        if may_lack and (not labelled or (name == "test" and config.test_labels is False)):
            sentences, labelled = [Sentence(s.tokens, None, s.where) for s in sentences], False
        elif not labelled:
            raise DataError(f"{source}: no tags; expected a token and its tag in each line")
        counts: dict[str, Any] = {"source": source}
        if labelled:
            if self.scheme == "auto":
                self.scheme = conll.scheme_of([s.tags for s in sentences if s.tags])
            rewritten = [conll.to_bio(sentence, self.scheme) for sentence in sentences]
            sentences = [sentence for sentence, _ in rewritten]
            counts |= {"tag_scheme": self.scheme, "mended_tags": sum(mended for _, mended in rewritten)}
            self._check_types(sentences)
        counts |= {**self.count(sentences, labelled), "documents": read.documents}
        if read.dropped:
            counts["dropped_rows"] = read.dropped
        return Split(name, source, sentences, counts, labelled)

    def learn(self, train: Split) -> None:
        """See `Task.learn`."""
        types = sorted({kind for sentence in train.examples for _, _, kind in conll.entities(sentence.tags)})
        if not types:
            raise DataError(f"{train.source}: every tag is O; there is no entity to learn")
        self.labels = ("O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))

    def _check_types(self, sentences: list[Sentence]) -> None:
        if not self.labels:
            return
        known = set(self.labels)
        for sentence in sentences:
            for tag in sentence.tags or ():
                if tag not in known:
                    types = ", ".join(label[2:] for label in self.labels if label.startswith("B-"))
                    raise DataError(
                        f"{sentence.where}: entities of type '{tag[2:]}', which the training data does not have; it "
                        f"has {types}"
                    )

    def count(self, examples: Sequence[Sentence], labelled: bool) -> dict[str, Any]:
        """See `Task.count`."""
        counts: dict[str, Any] = {"rows": len(examples), "tokens": sum(len(s.tokens) for s in examples)}
        if labelled:
            found = Counter(kind for s in examples for _, _, kind in conll.entities(s.tags or ()))
            counts["labels"] = dict(sorted(found.items()))
        return counts

    def head_config(self) -> dict[str, Any]:
        """See `Task.head_config`."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
        }

    def encode(self, split: Split, tokenizer: Any) -> Encoded:
        """See `Task.encode`.

        A feature has, beside the ids, ``sentence`` and ``words``: for each of its positions the token whose tag is read
        there, or -1. Both stay out of batches.
        """
        require_offsets(tokenizer, self.config.model)
        index = {label: number for number, label in enumerate(self.labels)}
        before, after = _specials(tokenizer)
        room = self.max_length - len(before) - len(after)
        features: list[dict[str, Any]] = []
        cut = windowed = without_pieces = 0
        for number, sentence in enumerate(split.examples):
            pieces = _pieces(tokenizer, sentence.tokens)
            without_pieces += sum(not piece for piece in pieces)
            pieces = [piece or [tokenizer.unk_token_id] for piece in pieces]
            cut += any(len(piece) > room for piece in pieces)
            windows = split_windows([min(len(piece), room) for piece in pieces], room)
            windowed += len(windows) > 1
            for first, last, own in windows:
                if not own:
                    continue  # every token of it is read in another one
                ids, words = list(before), [-1] * len(before)
                for word in range(first, last):
                    piece = pieces[word][:room]
                    ids += piece
                    words += [word if word in own else -1] + [-1] * (len(piece) - 1)
                feature: dict[str, Any] = {
                    "input_ids": ids + after,
                    "attention_mask": [1] * (len(ids) + len(after)),
                    "words": words + [-1] * len(after),
                    "sentence": number,
                }
                if split.labelled:
                    tags = sentence.tags
                    feature["labels"] = [index[tags[word]] if word >= 0 else IGNORED for word in feature["words"]]
                features.append(feature)
        notes = {"windowed": windowed, "inputs": len(features), "tokens_unknown_to_tokenizer": without_pieces}
        return Encoded(split, features, cut, notes)

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """See `Task.collator`; labels are padded with the ignored one."""

        def collate(features: list[dict[str, Any]]) -> dict[str, Any]:
            import torch

            batch: dict[str, Any] = tokenizer.pad(
                [{key: feature[key] for key in ("input_ids", "attention_mask")} for feature in features],
                return_tensors="pt",
            )
            if "labels" in features[0]:
                length = batch["input_ids"].shape[1]
                labels = [feature["labels"] + [IGNORED] * (length - len(feature["labels"])) for feature in features]
                batch["labels"] = torch.tensor(labels)
            return batch

        return collate

    def predicted_tags(self, encoded: Encoded, outputs: np.ndarray) -> list[list[str]]:
        """Join the windows' tags; outputs (inputs, length, labels)."""
        tags = [["O"] * len(sentence.tokens) for sentence in encoded.split.examples]
        for feature, row in zip(encoded.features, outputs.argmax(-1), strict=True):
            for position, word in enumerate(feature["words"]):
                if word >= 0:
                    tags[feature["sentence"]][word] = self.labels[int(row[position])]
        return tags

    def score(self, encoded: Encoded, outputs: np.ndarray) -> Scored:
        """See `Task.score`."""
        truth = [list(sentence.tags) for sentence in encoded.split.examples]
        return entity_scores(truth, self.predicted_tags(encoded, outputs))

    def write_predictions(self, path: Path, encoded: Encoded, outputs: np.ndarray) -> None:
        """Write token, tag (where known) and predicted tag, one per line, an empty line after each sentence."""
        predicted = self.predicted_tags(encoded, outputs)
        with atomic_write(path, "w") as file:
            for sentence, tags in zip(encoded.split.examples, predicted, strict=True):
                columns = [sentence.tokens, tags] if sentence.tags is None else [sentence.tokens, sentence.tags, tags]
                file.writelines("\t".join(fields) + "\n" for fields in zip(*columns, strict=True))
                file.write("\n")

    def baselines(self, splits: dict[str, Split]) -> dict[str, dict[str, Any]]:
        """No entity at all; where configured, the entities of the training texts wherever they occur again."""
        made: dict[str, dict[str, Any]] = {"majority": {"description": "no entities"}}
        if self.config.baseline:
            made["entity_list"] = {"description": "entities of the training texts, looked up"}
            known = _entity_list(splits["train"].examples)
        for name, split in splits.items():
            if name == "train" or not split.labelled:
                continue
            truth = [list(sentence.tags) for sentence in split.examples]
            made["majority"][name] = entity_scores(truth, [["O"] * len(tags) for tags in truth])
            if self.config.baseline:
                found = [_look_up(sentence.tokens, known) for sentence in split.examples]
                made["entity_list"][name] = entity_scores(truth, found)
        return made


def entity_scores(truth: list[list[str]], predicted: list[list[str]]) -> Scored:
    """Micro F1, precision and recall of whole entities by seqeval (as conlleval counts), and accuracy of tags.

    A score whose denominator is zero counts as 0 and is named as undefined.
    """
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # undefined ones are named below
        values = {
            "f1": float(f1_score(truth, predicted, zero_division=0)),
            "precision": float(precision_score(truth, predicted, zero_division=0)),
            "recall": float(recall_score(truth, predicted, zero_division=0)),
            "accuracy": float(accuracy_score(truth, predicted)),
        }
    there, found = (any(tag != "O" for tags in side for tag in tags) for side in (truth, predicted))
    undefined = [name for name, holds in (("precision", found), ("recall", there)) if not holds]
    return Scored(values, (*(["f1"] if not there and not found else []), *undefined))


def split_windows(lengths: list[int], room: int) -> list[tuple[int, int, set[int]]]:
    """Split a sentence into windows of at most `room` pieces that overlap by about a quarter.

    Args:
        lengths: pieces of each token, each at least 1 and at most `room`.
        room: pieces that fit into a window.

    Returns:
        (first token, token after the last, the tokens that are read in this window); every token is read in one.
    """
    windows: list[tuple[int, int]] = []
    start = 0
    while True:
        end, used = start, 0
        while end < len(lengths) and used + lengths[end] <= room:
            used += lengths[end]
            end += 1
        windows.append((start, end))
        if end == len(lengths):
            break
        back, overlap = end, 0
        while back - 1 > start and overlap + lengths[back - 1] <= min(room // 4, room - lengths[end]):
            back -= 1
            overlap += lengths[back]
        start = back
    owned: dict[int, list[int]] = defaultdict(list)
    for word in range(len(lengths)):
        inside = [number for number, (first, last) in enumerate(windows) if first <= word < last]
        # The window in which the token stands farthest from an edge that is not the sentence's own.
        best = max(inside, key=lambda number: _margin(word, windows[number], len(lengths)))
        owned[best].append(word)
    return [(first, last, set(owned[number])) for number, (first, last) in enumerate(windows)]


def _margin(word: int, window: tuple[int, int], length: int) -> int:
    first, last = window
    left = word - first if first else length
    return min(left, last - 1 - word if last < length else length)


def _specials(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids before and after a text: [CLS] and [SEP]."""
    ids = list(tokenizer("")["input_ids"])
    half = (len(ids) + 1) // 2
    return ids[:half], ids[half:]


def _pieces(tokenizer: Any, tokens: Sequence[str]) -> list[list[int]]:
    """Ids of each token's pieces; a token of which the tokenizer makes nothing has none."""
    encoding = tokenizer(list(tokens), is_split_into_words=True, add_special_tokens=False, verbose=False)
    pieces: list[list[int]] = [[] for _ in tokens]
    for piece, word in zip(encoding["input_ids"], encoding.word_ids(), strict=True):
        pieces[word].append(piece)
    return pieces


def _entity_list(sentences: Sequence[Sentence]) -> dict[tuple[str, ...], str]:
    counted: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for sentence in sentences:
        for first, last, kind in conll.entities(sentence.tags or ()):
            counted[sentence.tokens[first:last]][kind] += 1
    return {tokens: kinds.most_common(1)[0][0] for tokens, kinds in counted.items()}


def _look_up(tokens: tuple[str, ...], known: dict[tuple[str, ...], str]) -> list[str]:
    """Tag the longest known entity from left to right."""
    longest = max(map(len, known))
    tags, start = ["O"] * len(tokens), 0
    while start < len(tokens):
        for length in range(min(longest, len(tokens) - start), 0, -1):
            kind = known.get(tokens[start : start + length])
            if kind is not None:
                tags[start : start + length] = [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
                start += length - 1
                break
        start += 1
    return tags
