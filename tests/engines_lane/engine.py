"""A real engine in a process of its own: started, watched, stopped, killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

START_S = 240.0


class Engine:
    """`transformers serve` on loopback with one model."""

    def __init__(self, command: str, model: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.model = model
        home = folder / "hub-home"
        (home / "hub").mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(home),
            "OMP_NUM_THREADS": "1",
            "DO_NOT_TRACK": "1",
        }
        arguments = ["serve", model, "--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu"]
        # without a number of blocks it would size its cache to the whole memory
        arguments += ["--continuous-batching", "--cb-num-blocks", "512", "--cb-block-size", "32"]
        arguments += ["--cb-max-batch-tokens", "512"]
        self.log = folder / f"engine-{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [command, *arguments], stdout=log, stderr=log, env=environment, start_new_session=True
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def wait(self) -> None:
        """Wait until it answers."""
        begin = time.monotonic()
        while time.monotonic() - begin < START_S:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(f"the engine did not start: {self.log.read_text()[-2000:]}")

    def cpu_s(self) -> float:
        """CPU time that its process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def busy(self, over_s: float = 0.5) -> float:
        """Share of a core that it uses now."""
        before = self.cpu_s()
        time.sleep(over_s)
        return (self.cpu_s() - before) / over_s

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()
