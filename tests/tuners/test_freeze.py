"""What `--train_type freeze` trains is exactly what the options name."""

from __future__ import annotations

from typing import Any

import pytest

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners import tuners
from tests.tiny import make_model


def trained(**options: Any) -> set[str]:
    model = tuners.get("freeze")(make_model(), TunerConfig(train_type="freeze", **options))
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


ALL = {name for name, _ in make_model().named_parameters()}
FIRST = {name for name in ALL if name.startswith("model.layers.0.")}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"freeze_parameters": ["model.layers.0."]}, ALL - FIRST),
        ({"freeze_parameters_regex": r"layers\.0\."}, ALL - FIRST),
        ({"trainable_parameters": ["model.layers.0."]}, FIRST),
        ({"trainable_parameters_regex": r"^model\.layers\.0\."}, FIRST),
        ({"freeze_parameters_ratio": 1.0, "trainable_parameters": ["lm_head"]}, {"lm_head.weight"}),
        ({"freeze_parameters_ratio": 0.27}, ALL - {"model.embed_tokens.weight"}),
        (
            {"freeze_parameters": ["model.layers"], "trainable_parameters_regex": r"0\.mlp\.up"},
            {name for name in ALL if "layers" not in name} | {"model.layers.0.mlp.up_proj.weight"},
        ),
    ],
)
def test_exactly_what_is_named_is_trained(options: dict[str, Any], expected: set[str]) -> None:
    assert trained(**options) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"freeze_parameters": ["model.layer.0"]}, "model.layers.0"),
        ({"trainable_parameters": ["lmhead"]}, "lm_head"),
        ({"trainable_parameters_regex": "("}, "unterminated"),
        ({"freeze_parameters_ratio": 1.0}, "leaves nothing to train"),
    ],
)
def test_what_names_nothing_is_told_with_near_names(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SwiftError) as caught:
        trained(**options)
    assert said in str(caught.value)
