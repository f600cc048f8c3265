"""Whether the packages that a server on this machine needs are installed."""

from importlib.util import find_spec

from dreadnode.errors import ServeError

API = {"dreadnode_api": "pip install dreadnode-training-api"}
RUNTIME = {
    "dreadnode_runtime": "pip install dreadnode-training-runtime",
    # It depends on a package that is not published, so pip cannot install it as a dependency.
    "tinker_cookbook": "pip install --no-deps tinker-cookbook==0.6.1",
}
ENGINE = {"dreadnode_engine": "pip install dreadnode-training-engine"}


def require_installation(*, runtime: bool, engine: bool) -> None:
    """Return if every package that this server needs can be found.

    Args:
        runtime: Whether checks and sandboxes run in this environment.
        engine: Whether an engine is started too.

    Raises:
        ServeError: A package is missing; the message has the command that installs it.
    """
    needed = API | (RUNTIME if runtime else {}) | (ENGINE if engine else {})
    for package, command in needed.items():
        if find_spec(package) is None:
            raise ServeError(
                f"`{package}` is not installed here, and the server needs it: {command}"
            )
