"""`dn completion`: real shells complete commands, flags and the ids of base models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dreadnode.cli.completion import model_ids
from dreadnode.training import TINKER_MODELS, get_training_model

DN = Path(sys.executable).with_name("dn")
SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    return subprocess.run(
        [DN, "completion", shell], capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `dn` is found and nothing of the person's own is."""
    path = f"{DN.parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "LANG": "C.UTF-8"}


def in_bash(words: str, environment: dict[str, str]) -> list[str]:
    """Return what bash offers after WORDS, the last of which is being typed."""
    probe = (
        f"source /dev/stdin; COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); "
        '_dn; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", probe],
        input=script("bash"),
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return [line.strip() for line in done.stdout.splitlines()]


def test_bash_completes_the_id_of_a_base_model(environment: dict[str, str]) -> None:
    offered = in_bash("dn train sft --model Qwen/Qwen3-8", environment)

    assert offered == ["Qwen/Qwen3-8B", "Qwen/Qwen3-8B-Base"]


def test_bash_completes_commands(environment: dict[str, str]) -> None:
    assert in_bash("dn train cat", environment) == ["catalog"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_accepts_the_script() -> None:
    subprocess.run(["zsh", "-n"], input=script("zsh"), text=True, check=True)


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_the_id_of_a_base_model(environment: dict[str, str]) -> None:
    probe = f"{script('fish')}\ncomplete -C 'dn train sft --model Qwen/Qwen3-8'"
    # On standard input, since one argument holds at most 128 KiB on Linux.
    done = subprocess.run(
        ["fish"], input=probe, capture_output=True, text=True, env=environment, check=True
    )

    offered = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert offered == ["Qwen/Qwen3-8B", "Qwen/Qwen3-8B-Base"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_asks_for_model_ids_on_demand(shell: str) -> None:
    text = script(shell)

    assert "__complete" in text
    assert TINKER_MODELS[0].tinker_id not in text


def test_every_trainable_id_is_offered_once() -> None:
    offered = [model_id for model_id, _ in model_ids(None)]

    assert len(offered) == len(set(offered))
    assert {model.tinker_id for model in TINKER_MODELS} < set(offered)
    assert all(get_training_model(model_id) for model_id in offered)
