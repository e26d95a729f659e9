"""From a question and its context to the network's windows, and from its output back to a piece of the context.

The windows are those of Google's code (finetune/qa/qa_tasks.py): the question cut to 64 tokens, a step of 128 tokens
from one window to the next, and of the windows that hold a token the one counts in which it has the most context.
Unlike there, windows overlap by half also where they are shorter than 256 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from electra_ds.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from electra_ds.finetune.tasks.base import Encoded

READ = ("input_ids", "attention_mask", "token_type_ids")
"""What the network reads of a window."""
NOTHING = 1e4
"""Odds of no answer where no span qualifies."""


class WindowMaker:
    """Splits contexts into windows behind their questions; a context that comes again is tokenized once."""

    def __init__(self, tokenizer: Any, max_length: int, max_query_length: int, stride: int):
        """Take the limits.

        Args:
            tokenizer: a fast one.
            max_length: longest window, in tokens.
            max_query_length: longest question, in tokens; it is also cut to half a window.
            stride: step from one window to the next, in tokens; at most half a window, so that windows overlap.

        Raises:
            UserError: `max_length` leaves no room for question and context.
        """
        self.tokenizer, self.max_length, self.stride = tokenizer, max_length, stride
        self.frame = _frame(tokenizer)
        specials = sum(len(ids) for ids, _ in self.frame)
        if max_length < specials + 2:
            raise UserError(f"max_length: {max_length} leaves no room for a question and its context")
        self.limit = max(1, min(max_query_length, (max_length - specials) // 2))
        self.specials = specials
        self.contexts: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}

    def __call__(self, question: str, context: str) -> tuple[list[dict[str, Any]], bool]:
        """Return the windows, every token of the context being in some, and whether the question was cut.

        Beside the ids a window has ``context`` (positions of the first token and after the last), ``offsets``
        (characters of each), ``own`` (whether this window has the most context of each token), ``edge`` (whether it
        starts and ends with the whole context).
        """
        query = self.tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"]
        cut, query = len(query) > self.limit, query[: self.limit]
        if context not in self.contexts:
            encoding = self.tokenizer(context, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            self.contexts[context] = (encoding["input_ids"], [tuple(pair) for pair in encoding["offset_mapping"]])
        ids, offsets = self.contexts[context]
        room = self.max_length - self.specials - len(query)
        step = min(self.stride, (room + 1) // 2)
        starts = [0]
        while starts[-1] + room < len(ids):
            starts.append(starts[-1] + step)
        owner = _owners(len(ids), room, starts)
        (before, type_0), (between, _), (after, type_1) = self.frame
        found = []
        for number, start in enumerate(starts):
            here = slice(start, start + room)
            first = len(before) + len(query) + len(between)
            length = len(ids[here])
            window: dict[str, Any] = {"input_ids": [*before, *query, *between, *ids[here], *after]}
            window["attention_mask"] = [1] * len(window["input_ids"])
            if type_0 is not None:
                window["token_type_ids"] = [type_0] * first + [type_1] * (length + len(after))
            window["context"] = (first, first + length)
            window["offsets"] = offsets[here]
            window["own"] = (owner[here] == number).tolist()
            window["edge"] = (number == 0, number == len(starts) - 1)
            found.append(window)
        return found, cut


def _frame(tokenizer: Any) -> list[tuple[list[int], int | None]]:
    """Return the special tokens before, between and after a pair; with the first and the last the part's token type."""
    encoding = tokenizer("a", "a")
    ids, parts = encoding["input_ids"], encoding.sequence_ids(0)
    places = [[i for i, part in enumerate(parts) if part == which] for which in (0, 1)]
    types = encoding.get("token_type_ids")
    first, second = places
    return [
        (ids[: first[0]], None if types is None else types[first[0]]),
        (ids[first[-1] + 1 : second[0]], None),
        (ids[second[-1] + 1 :], None if types is None else types[second[0]]),
    ]


def _owners(length: int, room: int, starts: list[int]) -> np.ndarray:
    """Number of the window in which each token has the most context (the first of equals), as BERT's code counts it."""
    import numpy as np

    token = np.arange(length)
    scores = np.full((len(starts), length), -1.0)
    for number, start in enumerate(starts):
        size = min(room, length - start)
        inside = slice(start, start + size)
        scores[number, inside] = np.minimum(token[inside] - start, start + size - 1 - token[inside]) + 0.01 * size
    owner: np.ndarray = scores.argmax(0)
    return owner


def label(window: dict[str, Any], answer: tuple[str, int] | None) -> bool:
    """Set the positions that training is to find; a window without the whole answer points at [CLS], position 0.

    Returns:
        Whether the window holds the answer.
    """
    window["start_positions"] = window["end_positions"] = 0
    window["impossible"] = float(answer is None)
    offsets = window["offsets"]
    if answer is None or not offsets:
        return False
    text, start = answer
    end = start + len(text)
    opens, closes = window["edge"]
    if (start < offsets[0][0] and not opens) or (end > offsets[-1][1] and not closes):
        return False
    touched = [place for place, (first, last) in enumerate(offsets) if last > start and first < end]
    if not touched:
        return False
    window["start_positions"] = window["context"][0] + touched[0]
    window["end_positions"] = window["context"][0] + touched[-1]
    return True


def collator(tokenizer: Any, impossible: bool) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return what pads windows to a batch; `impossible` adds the label of the original's answerability classifier."""
    labels = ("start_positions", "end_positions", *(("impossible",) if impossible else ()))

    def collate(features: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        read = [{key: feature[key] for key in READ if key in feature} for feature in features]
        batch: dict[str, Any] = tokenizer.pad(read, return_tensors="pt")
        for name in labels:
            if name in features[0]:
                batch[name] = torch.tensor([feature[name] for feature in features])
        return batch

    return collate


def decode_independent(
    encoded: Encoded, outputs: tuple[np.ndarray, np.ndarray], n_best: int, max_answer_length: int
) -> tuple[dict[str, str], dict[str, float]]:
    """Take the best span of the stock head: start and end logits, each (windows, length), added.

    Returns:
        By id, the best non-empty answer, and the odds of no answer: the smallest sum at [CLS] of its windows less the
        best span's sum.
    """
    import numpy as np

    best: dict[int, tuple[float, str]] = {}
    null: dict[int, float] = {}
    for feature, starts, ends in zip(encoded.features, *outputs, strict=True):
        number = feature["example"]
        null[number] = min(null.get(number, float("inf")), float(starts[0]) + float(ends[0]))
        first, last = feature["context"]
        s, e = starts[first:last], ends[first:last]
        from_, to = np.argsort(-s, kind="stable")[:n_best], np.argsort(-e, kind="stable")[:n_best]
        scores = s[from_][:, None].astype(float) + e[to][None, :]
        length = to[None, :] - from_[:, None] + 1
        allowed = (length >= 1) & (length <= max_answer_length) & np.asarray(feature["own"], bool)[from_][:, None]
        if not allowed.any():
            continue
        row, column = np.unravel_index(np.where(allowed, scores, -np.inf).argmax(), scores.shape)
        score = float(scores[row, column])
        if number not in best or score > best[number][0]:
            best[number] = (score, _text(encoded, feature, int(from_[row]), int(to[column])))
    found, odds = {}, {}
    for number, example in enumerate(encoded.split.examples):
        score, found[example.id] = best.get(number, (0.0, ""))
        odds[example.id] = null[number] - score if number in best else NOTHING
    return found, odds


def decode_joint(
    encoded: Encoded, outputs: tuple[np.ndarray, ...], n_best: int, max_answer_length: int
) -> tuple[dict[str, str], dict[str, float]]:
    """Take the best span of the original head's beam.

    Args:
        encoded: the windows.
        outputs: start log probabilities and positions (windows, k), end log probabilities and positions (windows, k,
            k), and for SQuAD 2.0 the logit of having no answer (windows,).
        n_best: starts, and ends of each, that are tried.
        max_answer_length: in tokens.

    Returns:
        As `decode_independent`; the odds of no answer are the smallest logit of its windows, without it -1.
    """
    best: dict[int, tuple[float, str]] = {}
    null: dict[int, float] = {}
    for index, feature in enumerate(encoded.features):
        number = feature["example"]
        if len(outputs) == 5:
            null[number] = min(null.get(number, float("inf")), float(outputs[4][index]))
        first, last = feature["context"]
        for i in range(min(n_best, outputs[0].shape[1])):
            start = int(outputs[1][index, i]) - first
            if not 0 <= start < last - first or not feature["own"][start]:
                continue
            for j in range(min(n_best, outputs[2].shape[2])):
                end = int(outputs[3][index, i, j]) - first
                if not start <= end < min(last - first, start + max_answer_length):
                    continue
                score = float(outputs[0][index, i]) + float(outputs[2][index, i, j])
                if number not in best or score > best[number][0]:
                    best[number] = (score, _text(encoded, feature, start, end))
    names = [example.id for example in encoded.split.examples]
    return (
        {name: best[number][1] if number in best else "" for number, name in enumerate(names)},
        {name: null.get(number, -1.0) if number in best else NOTHING for number, name in enumerate(names)},
    )


def _text(encoded: Encoded, feature: dict[str, Any], start: int, end: int) -> str:
    context: str = encoded.split.examples[feature["example"]].context
    # A SentencePiece token begins with the space before it.
    return context[feature["offsets"][start][0] : feature["offsets"][end][1]].strip()
