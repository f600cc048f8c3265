"""What a tired person gets wrong: each gets one sentence, and nothing is left half-written."""

import socket
from pathlib import Path

import pytest

from .server import DN, MODEL, Server, free_port


def assert_refused(said: object, *words: str) -> None:
    code, out, err = said.code, said.out, said.err  # type: ignore[attr-defined]
    assert code == 1, said
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith("error: ")
    for word in words:
        assert word in err


def test_a_file_that_is_not_jsonl_is_refused_with_its_line(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "notes.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\nnot json\n')

    said = server.dn("dataset", "push", str(file), "notes@1.0.0")

    assert_refused(said, "line 2")
    assert "notes" not in server.dn("dataset", "list").out


def test_an_empty_dataset_is_refused(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_text("\n")

    said = server.dn("dataset", "push", str(file), "empty@1.0.0")

    assert_refused(said, "empty")
    assert "empty" not in server.dn("dataset", "list").out


def test_a_dataset_in_which_no_row_renders_is_refused_before_it_is_stored(
    server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "useless.jsonl"
    file.write_text('{"colour": "blue"}\n{"colour": "red"}\n')

    said = server.dn("dataset", "push", str(file), "useless@1.0.0")

    assert_refused(said, "None of the 2 rows can be trained on", "`colour`")
    assert "useless" not in server.dn("dataset", "list", "--json").out
    assert server.dn("train", "list", "--json").out.strip() == "[]"


def test_a_missing_dataset_is_refused(server: Server) -> None:
    said = server.dn("train", "sft", "--model", MODEL, "--dataset", "nowhere@1.0.0")

    assert_refused(said, "nowhere", "dn dataset list")


def test_an_unreachable_server_is_reported(server: Server) -> None:
    address = f"http://127.0.0.1:{free_port()}"

    said = server.dn(
        "train", "list", "--server", address, "--api-key", "dn_x", "--organization", "main"
    )

    assert_refused(said, address, "dn serve")


def test_a_wrong_token_is_reported(server: Server) -> None:
    address = f"http://127.0.0.1:{server.ports[0]}"

    said = server.dn(
        "train", "list", "--server", address, "--api-key", "dn_x", "--organization", "main"
    )

    assert_refused(said, "token")
    assert "dn_x" not in said.err


def test_a_port_in_use_is_reported(server: Server, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        said = server.dn("serve", "--data-dir", str(tmp_path / "data"), "--port", port)

    assert_refused(said, port, "--port")


def test_a_data_directory_that_is_not_writable_is_reported(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    said = server.dn(
        *("serve", "--data-dir", str(tmp_path / "file" / "data"), "--port", str(free_port()))
    )

    assert_refused(said, "--data-dir")


@pytest.mark.parametrize(
    "arguments", ["train sft", "train sft --modle x", "train catalog --limit ten", "nonsense"]
)
def test_wrong_arguments_exit_with_code_2(server: Server, arguments: str) -> None:
    said = server.dn(*arguments.split())

    assert said.code == 2
    assert "Traceback" not in said.err


def test_the_command_has_two_names() -> None:
    assert DN.exists()
    assert DN.with_name("dreadnode").exists()
