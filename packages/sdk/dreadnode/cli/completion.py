"""`dn completion`: shell completion of commands, flags and base models.

The printed script knows every command and flag. For a base model it runs `dn` again, so a newer
catalog needs no new script.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from cyclopts import App, Parameter

from dreadnode.cli.output import hint

_INSTALL = {
    "bash": 'eval "$(dn completion bash)"` in ~/.bashrc',
    "zsh": "dn completion zsh > ~/.zfunc/_dn`, with ~/.zfunc in fpath before compinit",
    "fish": "dn completion fish > ~/.config/fish/completions/dn.fish`",
}


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="The shell.")], /
) -> None:
    """Print the script that completes commands, flags and base models in a shell."""
    import sys

    from dreadnode.cli.main import app

    _resolve(app)
    sys.stdout.write(app.generate_completion(shell=shell))
    if sys.stdout.isatty():
        hint(f"to install it: `{_INSTALL[shell]}")


def model_ids(_: object) -> Iterator[tuple[str, str]]:
    """Yield each id for `--model`, with a short description."""
    from dreadnode.training.models import TINKER_MODELS

    for model in TINKER_MODELS:
        about = f"{model.size_b:g}B, {model.context_length // 1024}K"
        yield model.tinker_id, about if model.status == "active" else f"{about}, retired"
        if model.extended is not None:
            yield model.extended.tinker_id, f"{model.extended.context_length // 1024}K"


def _resolve(group: App) -> None:
    """Import every command, since only imported commands can be completed."""
    for command in group.resolved_commands().values():
        if isinstance(command, App):
            _resolve(command)
