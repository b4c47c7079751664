"""Large values in plain proxying: proxies in front of each kind of source, and what they count."""
import re

from .process import wait_until


def plain_proxies(servers, sources, certs, **config):
    """By name: one in front of each of `sources`, and one that speaks TLS on both sides of it."""
    plain = {name: servers.crossfade(side, config=config) for name, side in sources.items()}
    plain["tls"] = servers.crossfade(sources["standalone"], client_options={"tls": certs.context()}, config={
        "tls-cert-file": certs.crt("server"), "tls-key-file": certs.key("server"), "tls-ca-cert-file": certs.ca, "tls-auth-clients": "no",
        "source-tls": "yes", "source-tls-ca-cert-file": certs.ca, "source-nodes": sources["standalone"].tls_addrs})
    return plain


def counter(proxy, name):
    return int(re.search(r"crossfade_%s:(\d+)" % name, proxy.call("INFO", "crossfade").decode()).group(1))


def at_rest(proxy):
    wait_until("nothing is held", lambda: counter(proxy, "large_held") == 0, 30)
