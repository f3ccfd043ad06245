"""What the processes of a machine stand on: a folder of their own, and a port that they share."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ports import free_port

from e5.serving.whole_machine import private_folder, reserve_port


class TestTheFolder:
    def test_only_its_user_can_enter_the_folder_and_it_is_removed(self) -> None:
        with private_folder() as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
            (folder / "something").write_text("")
        assert not folder.exists()

    @pytest.mark.parametrize("place", ["", "/nowhere", "/" + "long/" * 30])
    def test_a_runtime_folder_that_cannot_be_used_is_passed_over(
        self, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", place)
        with private_folder() as folder:
            assert folder.is_dir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        with private_folder() as folder:
            assert folder.parent == tmp_path


class TestThePort:
    @contextmanager
    def bound(self, port: int, *options: int) -> Iterator[socket.socket]:
        with socket.socket() as each:
            for option in options:
                each.setsockopt(socket.SOL_SOCKET, option, 1)
            each.bind(("127.0.0.1", port))
            yield each

    def test_fronts_share_the_port_and_another_gateway_finds_it_in_use(self) -> None:
        port, as_fronts = free_port(), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)
        with self.bound(port, socket.SO_REUSEADDR) as reserved:
            reserve_port(reserved)
            with self.bound(port, *as_fronts) as one, self.bound(port, *as_fronts) as other:
                for listening in ([], [one], [other]):
                    for front in listening:
                        front.listen()
                    with (
                        pytest.raises(OSError, match="in use"),
                        self.bound(port, socket.SO_REUSEADDR),
                    ):
                        pass
