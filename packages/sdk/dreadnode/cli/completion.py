"""`dn completion`: what a shell needs to complete `dn`, the ids of base models included.

The script that is printed knows every command and flag; for a model it asks `dn` again, so that an
upgraded catalog needs no new script.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from cyclopts import App, Parameter

from dreadnode.cli.output import hint

_SAVE = {
    "bash": 'eval "$(dn completion bash)"` in ~/.bashrc',
    "zsh": "dn completion zsh > ~/.zfunc/_dn`, with ~/.zfunc in fpath before compinit",
    "fish": "dn completion fish > ~/.config/fish/completions/dn.fish`",
}


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="Which shell.")], /
) -> None:
    """Print the script that lets a shell complete commands, flags and models."""
    import sys

    from dreadnode.cli.main import app

    _resolve(app)
    sys.stdout.write(app.generate_completion(shell=shell))
    if sys.stdout.isatty():
        hint(f"it takes effect with `{_SAVE[shell]}")


def model_ids(_: object) -> Iterator[tuple[str, str]]:
    """Yield each id that `--model` takes, with a word about it."""
    from dreadnode.training.models import TINKER_MODELS

    for model in TINKER_MODELS:
        about = f"{model.size_b:g}B, {model.context_length // 1024}K"
        yield model.tinker_id, about if model.status == "active" else f"{about}, retired"
        if model.extended is not None:
            yield model.extended.tinker_id, f"{model.extended.context_length // 1024}K"


def _resolve(group: App) -> None:
    """Import every command, since a command that was never seen cannot be completed."""
    for command in group.resolved_commands().values():
        if isinstance(command, App):
            _resolve(command)
