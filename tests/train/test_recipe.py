from __future__ import annotations

import dataclasses

import pytest

from netwright.errors import UsageError
from netwright.train import Recipe


def test_json_round_trip() -> None:
    recipe = Recipe(epochs=3, lr=0.05, optimizer="adamw", clip_norm=1.0, limit=100, channels_last=False)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(dataclasses.asdict(recipe)) == recipe
    stepped = Recipe(schedule="step", milestones=(0.5, 0.64), gamma=0.5, optimizer="adamw", beta2=0.99)
    assert Recipe.from_json(stepped.to_json()) == stepped and hash(stepped)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("momentum", 1.0),
        ("milestones", (0.5, 1.5)),
        ("gamma", 0.0),
        ("beta2", 1.0),
        ("label_smoothing", 1.0),
        ("ema", -0.1),
        ("distill_weight", 1.1),
        ("clip_norm", 0.0),
        ("limit", 0),
        ("optimizer", "lion"),
        ("schedule", "linear"),
        ("precision", "fp16"),
        ("channels_last", "yes"),
    ],
)
def test_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=field):
        Recipe(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ['{"epoch": 3}', "[1]", "{"])
def test_text_that_is_no_recipe(text: str) -> None:
    with pytest.raises(UsageError, match="recipe"):
        Recipe.from_json(text)
