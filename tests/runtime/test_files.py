"""What is no regular file is refused before anything opens it, and waits."""

import os
import socket
from pathlib import Path

import pytest

from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file, resolved


def test_what_is_no_regular_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for path, kind in (
            (tmp_path, "a folder"),
            (tmp_path / "pipe", "a named pipe"),
            (tmp_path / "link", "a named pipe"),
            (tmp_path / "socket", "a socket"),
            (Path("/dev/zero"), "a device"),
        ):
            with pytest.raises(InputError) as caught:
                require_regular_file(path)
            assert str(caught.value) == f"{path}: expected a regular file, but this is {kind}"


def test_files_links_to_files_and_paths_to_nothing_pass(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "astray").symlink_to("nowhere")
    for name in ("file", "link", "astray", "none", "none/none", "x" * 300):
        require_regular_file(tmp_path / name)
    require_regular_file("a\0b")


def test_a_link_that_leads_to_itself_is_told(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError) as caught:
        resolved(tmp_path / "loop")
    assert str(caught.value) == f"{tmp_path / 'loop'}: is a link that leads to itself"
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert resolved(tmp_path / "link") == resolved(tmp_path / "file")
