"""The edge: a refusal becomes words and exit code 1, a wrong argument 2; a bug keeps its traceback.

Commands are named by where they are found, so that none is imported before it is asked for.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError

from dreadnode import __version__
from dreadnode.cli.output import hint, say
from dreadnode.errors import AuthenticationError, DreadnodeError, InputError

if TYPE_CHECKING:
    import httpx

app = App(
    name="dn",
    help="Fine-tune language models on a server of your own.",
    version=__version__,
    help_format="plaintext",
)
for _name, _target, _help in (
    ("train", "train:app", "Choose a base model, submit training jobs and follow them."),
    ("dataset", "dataset:app", "Store datasets and look at them."),
    ("serve", "serve:serve", "Start the API, the dispatcher and the engine on this machine."),
    ("engine", "serve:engine", "Run the engine alone; takes the engine's own arguments."),
    ("login", "login:login", "Save a server and a key as a profile."),
    ("logout", "login:logout", "Forget a profile."),
    ("whoami", "login:whoami", "Tell which server is asked, and as whom."),
):
    # What follows `dn engine` is the engine's own, its --help included.
    _flags = {"help_flags": [], "version_flags": []} if _name == "engine" else {}
    app.command(f"dreadnode.cli.{_target}", name=_name, help=_help, **_flags)


def run(arguments: list[str], *, transport: httpx.BaseTransport | None = None) -> int:
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
            hint("`dn login` saves a key; `dn whoami` tells which one is used")
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


def _sentence(error: CycloptsError) -> str:
    """Return what is wrong with the arguments, in the form of our own refusals."""
    error.verbose = False
    return " ".join(str(error).split()).removesuffix(".")


def _command(error: CycloptsError) -> str:
    return " ".join(["dn", *(error.command_chain or ())])
