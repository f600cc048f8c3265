"""The edge: a refusal becomes words and exit code 1, a wrong argument 2; a bug keeps its traceback.

Commands are named by where they are found, so that none is imported before it is needed. What takes
long to import (httpx, pydantic, rich) a command imports in its body.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, Parameter

from dreadnode.cli.help import Page
from dreadnode.cli.output import hint, say
from dreadnode.errors import AuthenticationError, DreadnodeError, InputError
from dreadnode.version import __version__

if TYPE_CHECKING:
    import httpx2

app = App(
    name="dn",
    help="Fine-tune language models on a server of your own.",
    version=__version__,
    help_format="plaintext",
    help_formatter=Page(),
    suppress_keyboard_interrupt=False,
    # No --no-flags, and no default that is as good as nothing.
    default_parameter=Parameter(negative=(), show_default=False),
)
for _name, _target in (
    ("train", "train.group:app"),
    ("dataset", "data.dataset:app"),
    ("capability", "data.capability:app"),
    ("webhook", "account.webhook:app"),
    ("serve", "server.serve:serve"),
    ("server", "server.backup:app"),
    ("token", "account.token:app"),
    ("member", "account.member:app"),
    ("workspace", "account.member:workspaces"),
    ("login", "account.login:login"),
    ("logout", "account.login:logout"),
    ("whoami", "account.login:whoami"),
    ("completion", "completion:completion"),
):
    app.command(f"dreadnode.cli.{_target}", name=_name)
# What follows `dn engine` is the engine's own, its --help included.
app.command("dreadnode.cli.server.engine:engine", name="engine", help_flags=[], version_flags=[])


def run(arguments: list[str], *, transport: httpx2.BaseTransport | None = None) -> int:
    """Run one command line.

    Args:
        arguments: What follows `dn`.
        transport: What carries requests in place of the network.

    Returns:
        The exit code: 0, or 1 for a refusal, 2 for wrong arguments, 130 for Ctrl-C.
    """
    from dreadnode.cli import context

    token = context.transport.set(transport)
    try:
        if not arguments or {"--help", "-h"}.intersection(arguments):
            _resolve(app, arguments)
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        say(f"error: {_sentence(error)}")
        hint(f"`{_command(error)} --help` shows what it takes")
        return 2
    except InputError as error:
        say(f"error: {error}")
        return 2
    except DreadnodeError as error:
        say(f"error: {error}")
        if isinstance(error, AuthenticationError):
            hint("`dn login` saves a token; `dn whoami` shows which one is used")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever reads our output has read enough; what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        context.transport.reset(token)
    return 0


def _resolve(group: App, arguments: list[str]) -> None:
    """Import what help is going to list, since it has no words for what it has not seen."""
    group.resolved_commands()
    for name in arguments[:1]:
        if name in group and isinstance(found := group[name], App):
            _resolve(found, arguments[1:])


def _sentence(error: CycloptsError) -> str:
    """Return what is wrong with the arguments, in the form of our own refusals."""
    error.verbose = False
    return " ".join(str(error).split()).removesuffix(".")


def _command(error: CycloptsError) -> str:
    return " ".join(["dn", *(error.command_chain or ())])
