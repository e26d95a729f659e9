"""Scores without a network, so that a network's score stands beside something."""

from __future__ import annotations

from collections import Counter

from electra_ds.errors import DataError
from electra_ds.finetune.tasks.base import Split


def majority(splits: dict[str, Split]) -> tuple[str, dict[str, list[str]]]:
    """Predict the most frequent training label everywhere (the first by name among equals)."""
    counted = Counter(example.label for example in splits["train"].examples)
    label = min(counted, key=lambda name: (-counted[name], name))
    return f"always '{label}'", {split.name: [label] * len(split.examples) for split in _scored(splits)}


def bag_of_words(splits: dict[str, Split]) -> tuple[str, dict[str, list[str]]]:
    """Multinomial naive Bayes on TF-IDF weights of lower-cased words; trained on the training split only."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    train = splits["train"]
    model = make_pipeline(TfidfVectorizer(token_pattern=r"\w+"), MultinomialNB(alpha=0.1))
    try:
        model.fit(_texts(train), [example.label for example in train.examples])
    except ValueError as error:
        raise DataError(f"{train.source}: no bag of words ({error}); leave out --baseline") from error
    return "TF-IDF, multinomial naive Bayes", {
        split.name: [str(label) for label in model.predict(_texts(split))] for split in _scored(splits)
    }


def _scored(splits: dict[str, Split]) -> list[Split]:
    return [split for name, split in splits.items() if name != "train" and split.labelled]


def _texts(split: Split) -> list[str]:
    return [" ".join(filter(None, (example.text, example.text_pair))) for example in split.examples]
