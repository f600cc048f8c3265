"""Keys: who is let in, and what each may see."""

import hashlib
import hmac
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import tinker
from dreadnode_engine.errors import Refused, Unauthorized
from dreadnode_engine.service.keys import Keyring, master_key
from tinker import types

MASTER = "tml-master-key-of-the-tests"


def run_key(subject: str, expires: int, master: str = MASTER) -> str:
    """Mint a run key as the API does, from the contract and not from the engine's code."""
    text = f"{subject}.{expires}"
    return f"tml-run.{text}.{hmac.new(master.encode(), text.encode(), hashlib.sha256).hexdigest()}"


def test_the_master_key_belongs_to_the_operator() -> None:
    assert Keyring(MASTER).verify(MASTER, now=0).can_access("job-1")


def test_a_run_key_created_by_the_api_gives_access_to_its_own_subject_only() -> None:
    who = Keyring(MASTER).verify(run_key("job-1", 100), now=99)

    assert who.subject == "job-1"
    assert who.can_access("job-1")
    assert not who.can_access("job-2")
    assert not who.can_access("")


def test_a_subject_may_contain_dots() -> None:
    assert Keyring(MASTER).verify(run_key("a.b.c", 100), now=0).subject == "a.b.c"


@pytest.mark.parametrize(
    "key",
    [
        None,
        "",
        "tml-other",
        run_key("job-1", 100),
        run_key("job-1", 10**12, master="tml-another-master"),
        run_key("job-1", 10**12)[:-1] + "x",
        run_key("job-1", 10**12).replace("job-1", "job-2"),
        "tml-run.job-1.never.abc",
        f"tml-run..{10**12}.abc",
        "tml-run.ü.1.é",
    ],
)
def test_any_other_key_is_unauthorized(key: str | None) -> None:
    with pytest.raises(Unauthorized):
        Keyring(MASTER).verify(key, now=100)


def test_a_master_key_needs_the_tinker_prefix() -> None:
    for wrong in ("secret-without-prefix", "tml-short", "tml-run.x.1.2345678"):
        with pytest.raises(Refused):
            Keyring(wrong)


def test_the_key_file_is_created_once_and_readable_only_by_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DREADNODE_ENGINE_KEY", raising=False)

    first, second = master_key(tmp_path), master_key(tmp_path)

    assert first == second
    assert first.startswith("tml-")
    assert stat.S_IMODE((tmp_path / "engine.key").stat().st_mode) == 0o600


def test_a_download_signature_opens_one_file_until_it_expires() -> None:
    keyring = Keyring(MASTER)
    signature = keyring.sign_path("run/external_weights/a/x", 100)

    assert keyring.verifies_path("run/external_weights/a/x", "100", signature, now=99)
    assert not keyring.verifies_path("run/external_weights/a/x", "100", signature, now=100)
    assert not keyring.verifies_path("run/external_weights/a/y", "100", signature, now=99)
    assert not keyring.verifies_path("run/external_weights/a/x", "101", signature, now=99)
    assert not keyring.verifies_path("run/external_weights/a/x", "-1", signature, now=99)


def test_a_wrong_key_is_refused_immediately(engine: Any) -> None:
    with pytest.raises(tinker.AuthenticationError):
        tinker.RestClient(base_url=engine.url, api_key="tml-wrong-key").get_server_capabilities()


def test_one_run_key_cannot_see_what_another_created(engine: Any) -> None:
    soon = int(time.time()) + 600
    mine = tinker.ServiceClient(base_url=engine.url, api_key=run_key("job-1", soon))
    training = mine.create_lora_training_client("tiny/llama", rank=2).result()
    path = training.save_state("mine").result().path
    theirs = tinker.RestClient(base_url=engine.url, api_key=run_key("job-2", soon))
    operator = tinker.RestClient(base_url=engine.url, api_key=MASTER)

    with pytest.raises(tinker.NotFoundError):
        theirs.get_training_run(training.model_id).result()
    with pytest.raises(tinker.NotFoundError):
        theirs.get_weights_info_by_tinker_path(path).result()
    with pytest.raises(tinker.NotFoundError):
        theirs.delete_checkpoint_from_tinker_path(path).result()
    other = tinker.ServiceClient(base_url=engine.url, api_key=run_key("job-2", soon))
    with pytest.raises(tinker.NotFoundError):
        other.create_training_client_from_state(path).result()
    assert theirs.list_training_runs().result().training_runs == []
    assert theirs.list_user_checkpoints().result().checkpoints == []
    assert operator.get_training_run(training.model_id).result().model_owner == "job-1"


def test_a_later_attempt_of_the_same_job_finds_its_checkpoints(engine: Any) -> None:
    soon = int(time.time()) + 600
    first = tinker.ServiceClient(base_url=engine.url, api_key=run_key("job-3", soon))
    path = (
        first.create_lora_training_client("tiny/llama", rank=2)
        .result()
        .save_state("half-way")
        .result()
        .path
    )
    again = tinker.ServiceClient(base_url=engine.url, api_key=run_key("job-3", soon + 60))

    training = again.create_training_client_from_state_with_optimizer(path).result()

    assert training.optim_step(types.AdamParams(learning_rate=1e-3)).result() is not None
