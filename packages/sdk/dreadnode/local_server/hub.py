"""Sends an adapter or an export to a model hub, through `huggingface_hub`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreadnode.errors import ExportError, InputError

if TYPE_CHECKING:
    from pathlib import Path

INSTALL = 'pip install "dreadnode-training[hub]"'


def check_repository(name: str) -> None:
    """Return if NAME can name a repository of the hub, and the hub's library is installed."""
    library = _library()
    try:
        library.utils.validate_repo_id(name)
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"`{name}` cannot name a repository of the hub: {reason}") from error


def require_token() -> None:
    """Return if there is a token for the hub on this machine."""
    if not _library().get_token():
        raise ExportError(
            "there is no token for the hub: set HF_TOKEN, or run `hf auth login`; `--dry-run` "
            "lists the files without one"
        )


def push_folder(folder: Path, repository: str, *, private: bool) -> str:
    """Upload the files of FOLDER to REPOSITORY, which is created if absent, and return its address.

    Raises:
        ExportError: The hub cannot be reached or refuses.
    """
    import httpx2

    library = _library()
    hub = library.HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        if private and not hub.repo_info(repository).private:
            raise ExportError(
                f"{repository} exists and is public; name another repository, or leave out "
                "`--private`"
            )
        commit = hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Upload with dreadnode training",
        )
    except library.errors.HfHubHTTPError as error:
        raise ExportError(f"the hub refused {repository}: {_first_line(error)}") from error
    except (OSError, httpx2.HTTPError) as error:
        raise ExportError(
            f"the hub at {library.constants.ENDPOINT} cannot be reached: {_first_line(error)}"
        ) from error
    return str(commit.repo_url)


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise ExportError(f"`huggingface_hub` is not installed here: {INSTALL}") from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
