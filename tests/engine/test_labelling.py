from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.engine.labelling import as_json, find_token, gradient_config, read_tokens
from autointerp.errors import UserError
from autointerp.explainers.gradient import Link, TokenLabel

GOOD = "token,activation,text\ndog,1,\nchair,0,\n"


@pytest.fixture
def written(tmp_path):
    def write(content: str | bytes):
        path = tmp_path / "words.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_columns_in_any_order_with_others_among_them(written):
    found = read_tokens(
        written(' Activation,id,TOKEN\n1,7,dog\n\n0.5,8,"cat, big"\n0,9,"a ""chair"""\n')
    ).items
    assert [(item.token, item.activation, item.text) for item in found] == [
        ("dog", 1.0, None),
        ("cat, big", 0.5, None),
        ('a "chair"', 0.0, None),
    ]


def test_byte_order_mark_and_windows_line_ends(written):
    found = read_tokens(written(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())).items
    assert [item.token for item in found] == ["dog", "chair"]


def test_the_place_of_a_token_in_its_text(written):
    text = "The cat sat on the catalog near a cat."
    rows = "".join(f'{token},{a},"{text}"\n' for token, a in (("cat", 1), ("catalog", 0), ("cat", 1)))
    found = read_tokens(written("token,activation,text\n" + rows + f'zebra,0,"{text}"\n')).items
    assert [item.start for item in found] == [4, 19, 34, None]
    assert all(item.text == text for item in found)


@given(st.text(max_size=40), st.text(min_size=1, max_size=5), st.integers(0, 50))
def test_a_token_is_found_where_it_stands(text, token, after):
    if not token.strip():
        return
    at = find_token(text, token, after)
    assert (at is None) == (token.strip() not in text)
    if at is not None:
        assert text.startswith(token.strip(), at)


def test_blank_tokens_are_left_out_and_counted(written):
    found = read_tokens(written('token,activation\ndog,1\n" ",1\n"",0\nchair,0\n'))
    assert [item.token for item in found.items] == ["dog", "chair"]
    assert found.n_empty == 2


def test_thousands_of_rows_duplicates_and_long_fields(written):
    rows = "".join(f"word{i % 50},{i % 3},\n" for i in range(9000))
    long = "x" * 300_000
    found = read_tokens(written(f"token,activation,text\n{rows}dog,1,{long} dog\n")).items
    assert len(found) == 9001
    assert found[-1].start == 300_001


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        ("token,text\ndog,x\n", "no column 'activation'.*seen: 'token', 'text'"),
        ("dog,1\n", "no column 'token' and no column 'activation'"),
        ("token;activation\ndog;1\n", "separated by commas"),
        ("token,token,activation\na,b,1\n", "2 columns 'token'"),
        ("token,activation\n", "no rows below the header"),
        ("token,activation\n ,1\n", "all 1 tokens are blank"),
        ("token,activation\ndog,0\nchair,0\n", "no positives"),
        ("token,activation\ndog,1\nchair,2\n", "no negatives"),
        ("token,activation\ndog,yes\n", "line 2: activation 'yes'"),
        ("token,activation\ndog,1\nchair,\n", "line 3: activation ''"),
        ("token,activation\ndog,nan\n", "activation 'nan'"),
        ("token,activation\ndog,-1\n", "activation '-1'"),
        ("token,activation\ndog,1e999\n", "activation '1e999'"),
        ("token,activation\ndog,1,extra\n", "line 2: 3 fields, and the header has 2"),
        ("token,activation\ndog\n", "line 2: no value for column 'activation'"),
        ('token,activation\n"dog,1\nchair,0\n', "not valid CSV"),
        ('token,activation\n"dog"x,1\n', "not valid CSV"),
        (b"token,activation\ncaf\xe9,1\n", "line 2: not UTF-8"),
        (b"\xff\xfet\x00o\x00", "not UTF-8"),
    ],
)
def test_mistakes_are_told_in_one_line(written, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_tokens(written(content))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"no file .* accepted: a CSV with the columns"):
        read_tokens(tmp_path / "none.csv")
    with pytest.raises(UserError, match="cannot read"):
        read_tokens(tmp_path)


@settings(max_examples=200)
@given(
    st.binary(max_size=200) | st.text(max_size=200).map(lambda text: ("token,activation\n" + text).encode())
)
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(data)
    with suppress(UserError):
        assert all(item.token.strip() and item.activation >= 0 for item in read_tokens(path).items)


def test_settings_of_the_explainer():
    config = gradient_config(
        ["restarts=1", 'proposals=["lists"]', "optimiser=adamw"], mode="paper", model="x/y"
    )
    assert (config.mode, config.model, config.restarts, config.optimiser) == ("paper", "x/y", 1, "adamw")
    assert config.proposals == ["lists"]
    assert gradient_config().mode == "robust"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("restarts", "KEY=VALUE"),
        ("restart=1", "restarts"),
        ("restarts=many", "restarts"),
        ("=1", "KEY=VALUE"),
        ("proposals=[]", "seen .*at least 1"),
        ("aspects=[]", "seen .*at least 1"),
    ],
)
def test_settings_that_do_not_exist(override, message):
    with pytest.raises(UserError, match=message):
        gradient_config([override])


def test_a_list_of_words_has_no_latents():
    with pytest.raises(UserError) as caught:
        gradient_config(["latents=5"])
    assert "latents_at_once" in str(caught.value)
    assert "latents" not in str(caught.value).split("accepted: ")[1].split(", ")


def test_unknown_mode():
    with pytest.raises(UserError, match="mode"):
        gradient_config(mode="magic")


def test_json_has_the_promised_keys_first_and_no_undefined_number():
    label = TokenLabel(
        label="tool",
        status="ok",
        precision=math.nan,
        recall=1.0,
        chain=(Link(label="中", precision=None, recall=1.0, balanced_accuracy=0.5),),
    )
    value = json.loads(as_json(label))
    assert list(value)[:7] == ["label", "status", "reason", "precision", "recall", "chain", "candidates"]
    assert value["precision"] is None
    assert value["chain"][0]["label"] == "中"
