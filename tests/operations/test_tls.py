"""TLS to all four servers: a run with verification on, and what becomes of one whose server cannot be trusted."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis

from tests.commands import invoke
from tests.production import PASSWORDS, Production
from tests.tls import Certificates, TlsProxy

SERVERS = ("postgres", "clickhouse", "registry", "redis")


@dataclass
class Encrypted:
    """A production whose servers are behind TLS, and the certificates."""

    production: Production
    certificates: Certificates
    proxies: dict[str, TlsProxy]

    def settings(self, authority: Path) -> dict[str, str]:
        """Return the environment of a run that trusts `authority`."""
        environment = self.production.environment
        tls = f"?sslmode=verify-full&sslrootcert={authority}"
        plain = f":{self.production.postgres.port}/"
        return environment | {
            "DATABASE_URL": environment["DATABASE_URL"].replace(plain, f":{self.proxies['postgres'].port}/") + tls,
            "FEAST_REGISTRY_URL": environment["FEAST_REGISTRY_URL"].replace(plain, f":{self.proxies['registry'].port}/")
            + tls,
            "CLICKHOUSE_HOST": f"https://127.0.0.1:{self.proxies['clickhouse'].port}",
            "CLICKHOUSE_CA_CERT": str(authority),
            "REDIS_CONNECTION": f"127.0.0.1:{self.proxies['redis'].port},ssl=true,ssl_ca_certs={authority},"
            f"username=feature_store,password={PASSWORDS['redis']}",
        }


@pytest.fixture(scope="module")
def servers(production: Production, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    ports = {
        "postgres": production.postgres.port,
        "clickhouse": urlsplit(production.clickhouse_url).port,
        "registry": production.postgres.port,
        "redis": production.redis.port,
    }
    with ExitStack() as stack:
        yield Encrypted(
            production,
            Certificates(tmp_path_factory.mktemp("certificates")),
            {
                name: stack.enter_context(TlsProxy(port, postgres=name in ("postgres", "registry")))
                for name, port in ports.items()
            },
        )


@pytest.fixture
def encrypted(servers: Encrypted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encrypted:
    """The environment of a run over TLS, with good certificates, registered definitions and an empty Redis."""
    servers.production.use(monkeypatch, tmp_path / "data")
    servers.production.register()
    servers.production.use(monkeypatch, tmp_path / "data", **servers.settings(servers.certificates.authority))
    for proxy in servers.proxies.values():
        proxy.context = servers.certificates.good
    for proxy in servers.proxies.values():
        proxy.connections = 0
    with Redis(port=servers.production.redis.port) as client:
        client.flushall()
    return servers


def test_a_run_goes_over_tls_to_all_servers(encrypted: Encrypted) -> None:
    # reads both databases, writes to the registry and to Redis
    result = invoke("--as-of", encrypted.production.as_of_text, "--view", "telemetry_features")
    assert result.exit_code == 0, result.output
    assert " online " in result.stdout
    assert all(proxy.connections for proxy in encrypted.proxies.values())
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    assert result.stdout.count(" TLS ") == result.stdout.count("on, the server's certificate is checked") == 4


FAULTS = {
    "another authority": "CERTIFICATE_VERIFY_FAILED|certificate verify failed",
    "another host name": "IP address mismatch|does not match|CERTIFICATE_VERIFY_FAILED",
    "expired": "certificate has expired|certificate verify failed",
    "no TLS": "does not support SSL|WRONG_VERSION_NUMBER|[Ww]rong version number|speaks TLS at this port",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_cannot_be_trusted_gets_nothing(
    encrypted: Encrypted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, fault: str
) -> None:
    certificates, proxy = encrypted.certificates, encrypted.proxies[server]
    bad = encrypted.settings(certificates.other_authority)
    variables = {
        "postgres": ["DATABASE_URL"],
        "clickhouse": ["CLICKHOUSE_CA_CERT"],
        "registry": ["FEAST_REGISTRY_URL"],
        "redis": ["REDIS_CONNECTION"],
    }
    if fault == "another authority":
        for name in variables[server]:
            monkeypatch.setenv(name, bad[name])
    else:
        proxy.context = {"another host name": certificates.other_host, "expired": certificates.expired}.get(fault)
    if (server, fault) == ("redis", "no TLS"):  # both wait for the other one to begin
        yaml = Path(encrypted.production.environment["FEAST_FS_YAML_FILE_PATH"]).read_text()
        (tmp_path / "feature_store.yaml").write_text(yaml.replace("timeout=5", "timeout=1"))
        monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(tmp_path / "feature_store.yaml"))
    view = "telemetry_features" if server == "clickhouse" else "work_order_features"
    result = invoke("--as-of", encrypted.production.as_of_text, "--view", view)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if " ERROR " in line or line.startswith("Error: ")]
    assert len(errors) == 1, result.output
    assert re.search(FAULTS[fault], errors[0])
    with Redis(port=encrypted.production.redis.port) as client:
        assert client.dbsize() == 0
    written = list((tmp_path / "data").rglob("*.parquet"))
    assert len(written) == (1 if server == "redis" else 0), "a snapshot comes before Redis"


def test_clickhouse_may_ask_for_a_certificate_of_the_client(
    encrypted: Encrypted, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = encrypted.certificates
    encrypted.proxies["clickhouse"].context = certificates.mutual
    run = ("--as-of", encrypted.production.as_of_text, "--view", "telemetry_features", "--dry-run")
    assert invoke(*run).exit_code == 1
    monkeypatch.setenv("CLICKHOUSE_CLIENT_CERT", str(certificates.client_certificate))
    monkeypatch.setenv("CLICKHOUSE_CLIENT_CERT_KEY", str(certificates.client_key))
    result = invoke(*run)
    assert result.exit_code == 0, result.output


def test_certificates_that_are_not_there_are_named(encrypted: Encrypted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_CA_CERT", "/nonexistent.pem")
    result = invoke("--as-of", encrypted.production.as_of_text)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "CLICKHOUSE_CA_CERT path does not point to a file" in result.stderr
