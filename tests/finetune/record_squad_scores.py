"""Makes ``squad_scores.json``: answers, predictions, and what two scorers that others keep say of them.

SQuAD 2.0 is scored by ``transformers.data.metrics.squad_metrics``, which releases 4 of transformers have (the official
script, made a module), SQuAD 1.1 by ``torchmetrics.functional.text.squad``. To make the file again, elsewhere:

    python -m venv scorers
    scorers/bin/pip install "transformers<5" torchmetrics
    scorers/bin/python tests/finetune/record_squad_scores.py

The questions are drawn from a fixed seed; only the scorers' part can change.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

PATH = Path(__file__).with_name("squad_scores.json")
_TEXT = """
    the The a A an AN Denver Broncos broncos 308 24–10 $5.2 million U.S. U.S
    l'Étoile l’Étoile Étoile étoile ÉTOILE Straße STRASSE İstanbul istanbul 北京 2008年 café cafe\u0301
    “gold” gold golden golden. anthem an-them (the) the's 'a' a. «los» ¿qué? नई दिल्ली। - — …
    zero\u200bwidth _x_ ~ one\u00b2
"""
WORDS = _TEXT.split()


def draw_questions(count: int, seed: int) -> list[dict[str, object]]:
    """Questions of 0 to 3 right answers, a prediction made from one of them or from nothing, and odds with ties."""
    draw = random.Random(seed)
    questions = []
    for _ in range(count):
        answers = [" ".join(draw.choices(WORDS, k=draw.randint(1, 4))) for _ in range(draw.choice((0, 0, 1, 1, 2, 3)))]
        if answers and draw.random() < 0.1:
            answers[0] = draw.choice(("the", "a an", ".", "—", "The (a)"))
        prediction = _changed(draw, draw.choice(answers)) if answers and draw.random() < 0.8 else ""
        if not prediction and draw.random() < 0.6:
            prediction = " ".join(draw.choices(WORDS, k=draw.randint(1, 3)))
        odds = round(draw.gauss(0.5 if not answers else -0.5, 1.5), 1)
        questions.append({"answers": answers, "prediction": prediction, "odds": odds})
    return questions


def _changed(draw: random.Random, answer: str) -> str:
    words = answer.split(" ")
    kind = draw.randrange(6)
    if kind == 0 and len(words) > 1:
        words.pop(draw.randrange(len(words)))
    elif kind == 1:
        words.insert(draw.randrange(len(words) + 1), draw.choice(("the", "An", "extra", "  ", ".", "\u00a0")))
    elif kind == 2:
        words = [word.upper() for word in words]
    elif kind == 3:
        words.append(words[0])
    elif kind == 4:
        words = [f"{word}," for word in words]
    return " ".join(words)


def main() -> None:
    """Score the questions and write the file."""
    import torchmetrics
    import transformers
    from torchmetrics.functional.text import squad
    from transformers.data.metrics import squad_metrics

    questions = draw_questions(300, seed=20)
    examples = [
        SimpleNamespace(qas_id=str(i), answers=[{"text": text} for text in question["answers"]])
        for i, question in enumerate(questions)
    ]
    predicted = {str(i): question["prediction"] for i, question in enumerate(questions)}
    odds = {str(i): question["odds"] for i, question in enumerate(questions)}
    exact, f1 = squad_metrics.get_raw_scores(examples, predicted)
    for i, question in enumerate(questions):
        question["v2"] = [float(exact[str(i)]), float(f1[str(i)])]
        if question["answers"]:
            target = {"text": question["answers"], "answer_start": [0] * len(question["answers"])}
            found = squad({"prediction_text": question["prediction"], "id": "x"}, {"answers": target, "id": "x"})
            question["v1"] = [found["exact_match"].item() / 100, found["f1"].item() / 100]
    content = {
        "scorers": {"v1": f"torchmetrics {torchmetrics.__version__}", "v2": f"transformers {transformers.__version__}"},
        "v2": squad_metrics.squad_evaluate(examples, predicted, odds, 0.0),
    }
    lines = ",\n".join(json.dumps(question, ensure_ascii=False) for question in questions)
    PATH.write_text(f'{json.dumps(content, indent=1)[:-2]},\n "questions": [\n{lines}\n]}}\n', "utf-8")


if __name__ == "__main__":
    main()
