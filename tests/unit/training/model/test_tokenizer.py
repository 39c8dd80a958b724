"""The vocabulary that is learnt from captions."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataops.errors import ContractError
from tests.python_code import run_python
from training.model.tokenizer import load_tokenizer, train_tokenizer

CAPTIONS = ["A red Apple", "a green apple", "two red cars", "smiling face with hearts", "café, naïve 🙂"] * 3
TOKENIZER = train_tokenizer(CAPTIONS, 300, 12)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_every_text_starts_ends_and_is_padded(texts):
    tokens = TOKENIZER(texts)
    assert tokens.dtype == torch.int64
    assert tokens.shape[0] == len(texts)
    assert 2 <= tokens.shape[1] <= 12
    for row in tokens:
        end = int(row.argmax())  # where the text tower reads
        assert row[0] == TOKENIZER.start_id
        assert row[end] == TOKENIZER.end_id == TOKENIZER.vocab_size - 1
        assert (row == TOKENIZER.end_id).sum() == 1
        assert (row[1:end] < TOKENIZER.start_id).all()
        assert (row[end + 1 :] == TOKENIZER.pad_id).all()
    assert any(row.argmax() == tokens.shape[1] - 1 for row in tokens)


def test_special_tokens_in_a_text_are_plain_text():
    for text in ("<|endoftext|>", "<|startoftext|>", "<|pad|>"):
        ids = TOKENIZER([text])[0].tolist()
        assert len(ids) > 3
        assert ids.count(TOKENIZER.end_id) == ids.count(TOKENIZER.start_id) == 1


def test_vocabulary_does_not_depend_on_process_or_order():
    script = (
        "import sys, json; from training.model.tokenizer import train_tokenizer;"
        "sys.stdout.write(train_tokenizer(json.loads(sys.argv[1]), 300, 12).to_json())"
    )
    assert run_python(script, json.dumps(CAPTIONS[::-1]), PYTHONHASHSEED="1").stdout == TOKENIZER.to_json()


def test_tokenizer_survives_a_round_trip_to_json(tmp_path):
    (tmp_path / "tokenizer.json").write_text(TOKENIZER.to_json())
    again = load_tokenizer(tmp_path / "tokenizer.json", 12)
    texts = [*CAPTIONS, "<|endoftext|> ünseen"]
    assert again(texts).equal(TOKENIZER(texts))
    assert again.facts() == TOKENIZER.facts()
    assert again([]).shape == (0, 2)


@pytest.mark.parametrize("damage", ["", "{}", "not json"])
def test_an_invalid_tokenizer_file_raises_contract_error(tmp_path, damage):
    (tmp_path / "tokenizer.json").write_text(damage)
    with pytest.raises(ContractError):
        load_tokenizer(tmp_path / "tokenizer.json", 12)
