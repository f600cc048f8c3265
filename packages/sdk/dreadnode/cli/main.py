"""The command line: the list of commands, and how errors become messages and exit codes.

Commands are named by their module, so each is imported only when it runs. Libraries that take long
to import (httpx2, pydantic, rich) are imported in the functions that use them.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError, Parameter

from dreadnode.cli.help import Page
from dreadnode.cli.output import hint, say
from dreadnode.errors import ApiError, AuthenticationError, DreadnodeError, InputError
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
    # Without --no-flags, and without defaults that mean "not given".
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
    ("profile", "account.profile:app"),
    ("login", "account.login:login"),
    ("logout", "account.login:logout"),
    ("whoami", "account.login:whoami"),
    ("completion", "completion:completion"),
):
    app.command(f"dreadnode.cli.{_target}", name=_name)
# All arguments after `dn engine` go to the engine, also --help.
app.command("dreadnode.cli.server.engine:engine", name="engine", help_flags=[], version_flags=[])


def run(arguments: list[str], *, transport: httpx2.BaseTransport | None = None) -> int:
    """Run one command line.

    Args:
        arguments: The arguments after `dn`.
        transport: Carries requests instead of the network.

    Returns:
        The exit code: 0, or 1 after an error, 2 for wrong arguments, 130 after Ctrl-C.
    """
    from dreadnode.cli import context

    arguments = _with_rehearsal_steps(arguments)
    as_json = "--json" in arguments
    token = context.transport.set(transport)
    try:
        if not arguments:
            from dreadnode.cli.start import show_first_steps

            show_first_steps()
            return 0
        if {"--help", "-h"}.intersection(arguments):
            _resolve(app, arguments)
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        from dreadnode.cli.usage import command_of, usage_error

        _report(usage_error(error), as_json=as_json)
        if not as_json:
            hint(f"`{command_of(error)} --help` lists the arguments")
        return 2
    except DreadnodeError as error:
        _report(error, as_json=as_json)
        if isinstance(error, AuthenticationError) and not as_json:
            hint("`dn login` saves a token; `dn whoami` shows which one is used")
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has closed it; the rest of the buffer is discarded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        context.transport.reset(token)
    return 0


def _with_rehearsal_steps(arguments: list[str]) -> list[str]:
    """Return ARGUMENTS with `--rehearse=20` as `--rehearse --rehearse-steps 20`."""
    expanded: list[str] = []
    for argument in arguments:
        found = re.fullmatch(r"(--rehearse(?:-first)?)=([-+.\d].*)", argument)
        expanded += [argument] if found is None else [found[1], "--rehearse-steps", found[2]]
    return expanded


def _report(error: DreadnodeError, *, as_json: bool) -> None:
    """Print ERROR on stderr, for people or as a JSON object."""
    if not as_json:
        say(f"error: {error}")
        return
    import json

    fields: dict[str, Any] = {"message": str(error), "type": type(error).__name__}
    if isinstance(error, ApiError):
        fields |= {
            "type": error.type or type(error).__name__,
            "status": error.status,
            "request_id": error.request_id,
            "errors": [{"loc": list(each.loc), "msg": each.msg} for each in error.errors],
        }
    say(json.dumps({"error": fields}, ensure_ascii=False))


def _resolve(group: App, arguments: list[str]) -> None:
    """Import the commands that a help page lists, since it needs their descriptions."""
    group.resolved_commands()
    for name in arguments[:1]:
        if name in group and isinstance(found := group[name], App):
            _resolve(found, arguments[1:])
