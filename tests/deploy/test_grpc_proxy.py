"""The gRPC proxy of `make serve`: real Envoy, real Triton, throw-away certificates. Strangers are kept out."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from client import NO_RETRY, AsyncClient, Client, Options, Tls, errors
from client.credentials import Credentials
from client.kserve import CHANNEL_OPTIONS, add_tensor
from contract.paths import ROOT
from serving.launch.grpc_proxy import FILE
from tests.certificates import Authority
from tests.conftest import Server, start_server, stop_server
from tests.serving.gateway.conftest import start_gateway
from tests.triton.processes import command, ended, family, run_dir, triton

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
KEY = "alices-key-0123456789"
RESTART_SECONDS = 120.0
SERIAL = Options(max_tokens=400, seed=1, ignore_eos=True)  # two seconds


@dataclass
class Proxy:
    server: Server
    folder: Path

    @property
    def address(self) -> str:
        return f"grpcs://{self.server.grpc}"

    def tls(self, ca: str = "ca", who: str = "client") -> Tls:
        certificate = (self.folder / f"{who}.crt", self.folder / f"{who}.key") if who else ("", "")
        return Tls(self.folder / f"{ca}.crt", *certificate)

    def client(self, key: str | None = KEY, tls: Tls | None = None) -> Client:
        return Client(self.address, api_key=key, tls=tls or self.tls(), retry=NO_RETRY)

    def stub(self, **more: Any) -> Any:
        channel = Credentials(KEY, self.tls()).channel(grpc, self.server.grpc, list(CHANNEL_OPTIONS))
        return service_pb2_grpc.GRPCInferenceServiceStub(channel)

    @property
    def envoy(self) -> psutil.Process:
        (found,) = [p for p in psutil.Process(self.server.process.pid).children() if p.name() == "envoy"]
        return found

    @property
    def variables(self) -> dict[str, str]:
        """For programs that are clients."""
        files = {"CA": "ca.crt", "CERT": "client.crt", "KEY": "client.key"}
        paths = {f"QWEN_TLS_{name}": str(self.folder / file) for name, file in files.items()}
        return os.environ | paths | {"TRITON_KEY_FILE": str(self.folder / "keys")}


HELLO = (("authorization", f"Bearer {KEY}"),)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    authority, other = Authority(folder, "ca"), Authority(folder, "other")
    server, _ = authority.sign("server"), authority.sign("client")
    other.sign("stranger")
    (folder / "keys").write_text(f"# who knows\nalice {KEY}\nbob bobs-key\n")
    flags = ["--triton-key-file", folder / "keys", "--triton-tls-cert", server.certificate,
             "--triton-tls-key", server.key, "--triton-tls-client-ca", authority.certificate]  # fmt: skip
    arguments = ("--runtime", "simulated", "--step-ms", "5", "--triton-host", "0.0.0.0", *map(str, flags))
    running = start_server(folder / "serve.log", *arguments, gateway=True)
    yield Proxy(running, folder)
    assert stop_server(running) == 0


def test_who_has_key_and_certificate_is_served(proxy: Proxy) -> None:
    with proxy.client() as client:
        answer = list(client.stream("Hi", Options(max_tokens=5, seed=1)))
        assert answer[-1].completion_tokens == 5

    async def one() -> int:
        async with AsyncClient(proxy.address, api_key="bobs-key", tls=proxy.tls(), retry=NO_RETRY) as client:
            return (await client.generate("Hi", Options(max_tokens=5))).completion_tokens

    assert asyncio.run(one()) == 5


@pytest.mark.parametrize("key", [None, "wrong", KEY[:-1], f"{KEY}0"])
def test_without_a_known_key_one_line_says_so(proxy: Proxy, key: str | None) -> None:
    with (
        proxy.client(key) as client,
        pytest.raises(errors.NotAuthorized, match=r"^the API key is missing or unknown; "),
    ):
        client.generate("Hi", Options(max_tokens=1))


STRANGERS = {
    "no certificate of his own": ("ca", "", "wants a client's certificate|closed the connection"),
    "a certificate of somebody else": ("ca", "stranger", "wants a client's certificate|closed the connection"),
    "another CA": ("other", "client", "nobody known here has signed its certificate"),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_without_the_right_certificates_one_line_says_so(proxy: Proxy, who: str) -> None:
    ca, own, words = STRANGERS[who]
    with proxy.client(tls=proxy.tls(ca, own)) as client, pytest.raises(errors.ConnectError, match=words) as refused:
        client.generate("Hi", Options(max_tokens=1))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


def test_plain_text_is_refused_with_the_remedy(proxy: Proxy) -> None:
    with (
        Client(proxy.server.grpc, api_key=KEY, retry=NO_RETRY) as client,
        pytest.raises(errors.ConnectError, match="speak TLS"),
    ):
        client.generate("Hi", Options(max_tokens=1))


def test_compressed_requests_are_refused_before_triton(proxy: Proxy) -> None:
    """200 MB of one letter are 200 kB on the wire; Triton would unpack them before it looks at a key."""
    request = pb.ModelInferRequest(model_name="qwen")
    add_tensor(request, "text_input", "BYTES", ["a" * 200_000_000])
    server = triton(proxy.server)
    before = server.memory_info().rss
    for call in (proxy.stub().ModelInfer, lambda r, **more: list(proxy.stub().ModelStreamInfer(iter([r]), **more))):
        with pytest.raises(grpc.RpcError) as refused:
            call(request, compression=grpc.Compression.Gzip, metadata=HELLO, timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED and "identity" in refused.value.details()
    assert server.memory_info().rss - before < 50e6


def test_methods_that_manage_the_server_are_not_offered(proxy: Proxy) -> None:
    stub = proxy.stub()
    assert stub.ModelReady(pb.ModelReadyRequest(name="qwen"), metadata=HELLO, timeout=60).ready
    calls = (
        (stub.RepositoryIndex, pb.RepositoryIndexRequest()),
        (stub.SystemSharedMemoryStatus, pb.SystemSharedMemoryStatusRequest()),
        (stub.LogSettings, pb.LogSettingsRequest()),
    )
    for call, request in calls:
        with pytest.raises(grpc.RpcError, match="not offered here"):
            call(request, metadata=HELLO, timeout=60)


def test_triton_itself_listens_on_localhost_and_keys_are_nowhere(proxy: Proxy) -> None:
    listening = {c.laddr.ip for c in triton(proxy.server).net_connections() if c.status == psutil.CONN_LISTEN}
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    secret = KEY.encode()
    processes = family(proxy.server)
    assert not [p for p in processes if secret in Path(f"/proc/{p.pid}/cmdline").read_bytes()]
    assert not [p for p in processes if secret in Path(f"/proc/{p.pid}/environ").read_bytes()]
    stubs = [p for p in processes if any("model.py" in part for part in command(p))]
    assert len(stubs) >= 3 and not [p for p in stubs if b"TRITON_" in Path(f"/proc/{p.pid}/environ").read_bytes()]
    logs = [*ROOT.glob(f".run/*-{proxy.server.http_port}.log"), proxy.server.log, *run_dir(proxy.server).glob("*")]
    assert not [path for path in logs if path.is_file() and secret in path.read_bytes()]


def test_programs_use_key_and_certificates_by_themselves(proxy: Proxy, tmp_path: Path) -> None:
    terminal = [sys.executable, "-m", "client", "--address", proxy.server.grpc, "--set", "max_tokens=3", "Hi"]
    done = subprocess.run(terminal, cwd=ROOT, env=proxy.variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "3 tokens" in done.stderr, done.stderr
    wrong = proxy.variables | {"QWEN_TLS_CA": str(proxy.folder / "other.crt")}
    done = subprocess.run(terminal, cwd=ROOT, env=wrong, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "no TLS with" in done.stderr, done.stderr
    load = [sys.executable, "-m", "loadtest", "run", "--host", "https://127.0.0.1", "--out", str(tmp_path / "report"),
            "--grpc-port", str(proxy.server.grpc_port), "--metrics-port", str(proxy.server.metrics_port),
            "--users", "2", "--duration", "2s", "--warmup", "0s", "--output-tokens", "8"]  # fmt: skip
    done = subprocess.run(load, cwd=ROOT, env=proxy.variables, capture_output=True, text=True, timeout=120)
    summary = (tmp_path / "report/summary.json").read_text()
    assert '"failed": 0' in summary and KEY not in summary, done.stdout + done.stderr
    done = subprocess.run(load, cwd=ROOT, env=proxy.variables | {"TRITON_KEY_FILE": ""}, capture_output=True, text=True)
    assert "the API key is missing or unknown" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_gateway_elsewhere_uses_the_proxy(proxy: Proxy, tmp_path: Path) -> None:
    """And says in one line which setting is wrong."""
    settings = {
        "TRITON_GRPC": proxy.address, "TRITON_METRICS": proxy.server.metrics, "GATEWAY_WORKERS": "1",
        "GATEWAY_TRITON_KEY_FILE": str(proxy.folder / "keys"), "GATEWAY_TRITON_CA": str(proxy.folder / "ca.crt"),
        "GATEWAY_TRITON_CERT": str(proxy.folder / "client.crt"),
        "GATEWAY_TRITON_CERT_KEY": str(proxy.folder / "client.key"),
    }  # fmt: skip
    gateway = start_gateway(tmp_path, proxy.server, **settings)  # it has the two addresses
    try:
        assert httpx.get(f"{gateway.url}/health/ready", trust_env=False).status_code == 200
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, trust_env=False, timeout=30)
        assert answer.json()["usage"]["completion_tokens"] == 3
    finally:
        gateway.stop()
    wrong = os.environ | settings | {"GATEWAY_PORT": "0", "GATEWAY_TRITON_CA": str(tmp_path / "none.crt")}
    done = subprocess.run(
        [sys.executable, "-m", "serving.gateway"], cwd=ROOT, env=wrong, capture_output=True, text=True
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "none.crt" in done.stderr, done.stderr


def test_a_killed_proxy_comes_back_and_harms_nobody_behind_it(proxy: Proxy) -> None:
    with proxy.client() as client, Client(f"http://127.0.0.1:{proxy.server.gateway_port}") as other:
        outside, inside = client.stream("Hi", SERIAL), other.stream("Hi", SERIAL)
        next(outside), next(inside)
        proxy.envoy.kill()
        began = time.monotonic()
        with pytest.raises(errors.ClientError):
            list(outside)
        assert time.monotonic() - began < 5
        assert list(inside)[-1].completion_tokens == SERIAL.max_tokens
    assert _serves_again(proxy, 15) and proxy.server.log.read_text().count("the gRPC proxy ended (SIGKILL") == 1
    proxy.server.wait_for(lambda: not (run_dir(proxy.server) / FILE).exists(), 30)  # it holds the keys


def test_a_killed_triton_ends_streams_with_an_error_and_comes_back(proxy: Proxy) -> None:
    with proxy.client() as client:
        stream = client.stream("Hi", SERIAL)
        next(stream)
        triton(proxy.server).kill()
        began = time.monotonic()
        with pytest.raises(errors.ClientError) as ended:
            list(stream)
        assert time.monotonic() - began < 5 and "\n" not in str(ended.value)
    assert _serves_again(proxy, RESTART_SECONDS)


def _serves_again(proxy: Proxy, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with proxy.client() as client:
                return client.generate("Hi", Options(max_tokens=1)).completion_tokens == 1
        except errors.ClientError:
            time.sleep(0.2)
    return False


def test_a_second_ctrl_c_stops_at_once_over_ipv6_too(own_server: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    flags = ("--triton-key-file", str(tmp_path / "key"), "--triton-host", "::1", "--drain", "60")
    server = own_server("--runtime", "simulated", "--step-ms", "5", *flags)
    processes, directory = family(server), run_dir(server)
    with Client(f"[::1]:{server.grpc_port}", api_key=KEY, retry=NO_RETRY) as client:
        stream = client.stream("Hi", Options(max_tokens=20_000, ignore_eos=True))
        next(stream)
        server.process.send_signal(signal.SIGINT)
        next(stream)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        with pytest.raises(errors.ClientError):
            list(stream)
    assert ended(processes) and not directory.exists()


def test_ctrl_c_lets_streams_end_through_the_proxy(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """A key without TLS, on localhost."""
    (tmp_path / "key").write_text(KEY)
    server = own_server("--runtime", "simulated", "--step-ms", "5", "--triton-key-file", str(tmp_path / "key"))
    processes = family(server)
    with Client(server.grpc, api_key=KEY, retry=NO_RETRY) as client:
        stream = client.stream("Hi", SERIAL)
        next(stream)
        server.process.send_signal(signal.SIGINT)
        assert list(stream)[-1].completion_tokens == SERIAL.max_tokens
    assert server.process.wait(20) == 0
    server.wait_for(lambda: not [p for p in processes if p.is_running()], 30)
