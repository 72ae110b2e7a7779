"""What a key looks like, and what its request may say."""

from __future__ import annotations

import hashlib
import math

import pytest
from pydantic import ValidationError

from gammabeta.schemas.keys import KeyRequest, Scope, lifetime_ms
from gammabeta.store import keys

KEY = "gb_Ab12Cd34_0123456789abcdefghijABCDEFGHIJ0123456789abc_"
"""Without its checksum."""


def made() -> str:
    return keys._text("Ab12Cd34")


def test_a_key_has_a_prefix_an_id_a_secret_and_a_checksum() -> None:
    prefix, key_id, secret, checksum = made().split("_")
    assert (prefix, key_id, len(secret), len(checksum)) == ("gb", "Ab12Cd34", 43, 6)
    assert keys.id_of(made()) == "key_Ab12Cd34"
    assert keys.is_intact(made())


def test_the_secret_has_room_for_256_bits_and_is_drawn_anew() -> None:
    assert math.log2(62) * keys.SECRET > 256
    assert len({made() for _ in range(100)}) == 100


def test_numbers_are_written_with_every_digit() -> None:
    assert keys._base62(0, 6) == "000000"
    assert keys._base62(2**256 - 1, 43)[0] != "0"
    assert [keys._base62(number, 2) for number in (61, 62, 62**2 - 1)] == ["0z", "10", "zz"]


def test_the_checksum_is_crc_32_of_what_is_before() -> None:
    assert keys._checksum("123456789") == keys._base62(0xCBF43926, 6)


@pytest.mark.parametrize("place", [0, 4, 12, 30, 54, 56, 61])
def test_one_wrong_character_anywhere_is_noticed(place: int) -> None:
    text = made()
    assert not keys.is_intact(text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :])


@pytest.mark.parametrize("text", ["", "gb_", KEY, "ü" * 62])
def test_what_never_was_a_key_is_not_intact(text: str) -> None:
    assert not keys.is_intact(text)


def test_a_key_that_was_cut_or_mistyped_is_not_intact() -> None:
    key = made()
    assert keys.is_intact(key)
    assert not any(map(keys.is_intact, (key[:-1], key + "0", f" {key}", key.swapcase())))


def test_the_hash_is_of_the_whole_key() -> None:
    text = made()
    assert keys.digest(text) == hashlib.sha256(text.encode()).digest()
    assert keys.digest(text[:-1]) != keys.digest(text)


@pytest.mark.parametrize(("text", "minutes"), [("30m", 30), ("12h", 720), ("90d", 129_600)])
def test_lifetimes_are_days_hours_or_minutes(text: str, minutes: int) -> None:
    assert lifetime_ms(text) == minutes * 60_000
    assert KeyRequest(name="ci", scopes=(Scope.READ,), expires=text).expires == text


@pytest.mark.parametrize("text", ["", "0d", "90", "d", "-1d", "1.5d", "1y", "3651d", "90 d", "1d\n", "٣d"])
def test_what_is_no_lifetime_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="90d, 12h or 30m"):
        KeyRequest(name="ci", scopes=(Scope.READ,), expires=text)


@pytest.mark.parametrize("scopes", [[], ["write"], ["read"] * 5, "read"])
def test_scopes_are_some_of_four(scopes: object) -> None:
    with pytest.raises(ValidationError):
        KeyRequest.model_validate({"name": "ci", "scopes": scopes})
