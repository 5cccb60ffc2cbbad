"""Whether a connection is encrypted, and whether the server has proved who it is."""

from ipaddress import ip_address

from pipeline.operations.doctor.check import Check, Subject


def check_transport(subject: Subject, host: str, *, encrypted: bool, verified: bool, fix: str) -> Check:
    """Return whether passwords and rows travel in clear to `host`; on this machine they may."""
    if encrypted and verified:
        return subject.ok("TLS", "on, the server's certificate is checked")
    if is_this_machine(host):
        return subject.ok("TLS", "on" if encrypted else "off, and not needed: the server is on this machine")
    if encrypted:
        return subject.warning("TLS", f"on, but nobody checks that the server is {host}", fix)
    return subject.warning("TLS", f"off: the password and all values travel in clear to {host}", fix)


def is_this_machine(host: str) -> bool:
    """Return whether `host`, a name, an address or the folder of a socket, is certainly this machine."""
    if host.startswith(("/", "@")) or host in ("", "localhost"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
