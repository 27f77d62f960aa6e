"""An exported folder, loaded by transformers alone, computes what was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asking import QUICK, ask, job
from cases import CUSTOM, NATIVE

if TYPE_CHECKING:
    from pathlib import Path

TOLERANCE = 1e-5
NAMES = [*NATIVE, *(f"custom {name}" for name in CUSTOM)]
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in NAMES]
pytestmark = pytest.mark.slow

Answers = dict[str, dict[str, Any]]


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_that_were_trained(name: str, answers: Answers) -> None:
    found = answers[name]
    assert "problem" not in found, found["problem"]
    assert found["logits"] <= TOLERANCE


@pytest.mark.parametrize("what", ["chunked prefill", "left padding", "beside padding"])
@pytest.mark.parametrize("name", CASES)
def test_a_text_reads_the_same_in_parts_and_beside_others(
    name: str, what: str, answers: Answers
) -> None:
    assert answers[name][what] <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_generation_needs_no_cache(name: str, answers: Answers) -> None:
    assert answers[name]["greedy"] is True


@pytest.mark.parametrize("name", CASES)
def test_checkpointing_changes_no_gradient(name: str, answers: Answers) -> None:
    assert answers[name]["checkpointing"] <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_what_transformers_saves_again_computes_the_same(name: str, answers: Answers) -> None:
    if name.startswith("olmo_hybrid"):
        pytest.skip("transformers 5.23 cuts its convolution into three equal parts")
    assert answers[name]["saved again"] <= TOLERANCE
    assert answers[name]["resized"] <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_the_tokenizer_travels(name: str, answers: Answers) -> None:
    assert answers[name]["text"] == "naïve text"


@pytest.mark.parametrize("name", CASES[len(NATIVE) :])
def test_packed_documents_are_exact_or_refused(name: str, answers: Answers) -> None:
    found = answers[name]
    assert found["packed"] <= TOLERANCE
    assert found["packed without a mask"] <= TOLERANCE
    assert "leave the mask" in found["packed with a mask"]
    assert "cannot go on from a cache" in found["packed with a cache"]
    assert "position_ids" in found["packed without positions"]
    assert "[batch, tokens]" in found["a square mask"]


@pytest.mark.parametrize("name", CASES[len(NATIVE) :])
def test_a_custom_folder_answers_as_models_of_transformers_do(name: str, answers: Answers) -> None:
    found = answers[name]
    assert found["hidden states"] is True
    assert found["a tuple"] is True
    assert found["a collated batch"] <= TOLERANCE
    assert found["a cache of transformers"] <= TOLERANCE
    assert "DynamicCache(config=model.config)" in found["a cache without layers"]
    assert "output_attentions=True asks for what" in found["weights of attention"]
    assert "cache_implementation=static makes masks" in found["a static cache"]


@pytest.fixture(scope="module")
def thorough(exported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """With what takes longer."""
    root = tmp_path_factory.mktemp("thorough")
    jobs = {name: job(name, folder, root, long=True) for name, folder in exported.items()}
    return ask(jobs, root)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_beams_need_no_cache(name: str, thorough: Answers) -> None:
    assert "problem" not in thorough[name], thorough[name]["problem"]
    assert thorough[name]["beam"] is True


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_trainer_of_transformers_learns(name: str, thorough: Answers) -> None:
    first, _, last = thorough[name]["losses"]
    assert last < first
