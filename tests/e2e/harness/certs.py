"""Certificates made by openssl in a folder of the test's own.

    certs = Certs()
    certs.make("server")                      # server.crt, server.key, for 127.0.0.1 and localhost
    certs.make("old", days=-1)                # expired yesterday
    certs.make("other", names="DNS:other")    # another name
    certs.context()                           # Python's side of a client
"""
import os
import shutil
import ssl
import subprocess
import tempfile

HERE = "IP:127.0.0.1,DNS:localhost"
NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]


class Certs:
    def __init__(self, ca="ca"):
        self.dir = tempfile.mkdtemp(prefix="cf-certs-")
        self._openssl("req", "-x509", *NEW_KEY, "-nodes", "-keyout", self.key("ca"), "-out", self.crt("ca"),
                      "-subj", "/CN=" + ca, "-days", "30")

    def close(self):
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def crt(self, name):
        return self.path(name + ".crt")

    def key(self, name):
        return self.path(name + ".key")

    @property
    def ca(self):
        return self.crt("ca")

    def _openssl(self, *args):
        done = subprocess.run(["openssl", *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, (args, done.stdout)

    def make(self, name, names=HERE, days=30, passphrase=None):
        """A certificate of this CA; written anew if it is there already."""
        secret = ["-passout", "pass:" + passphrase] if passphrase else ["-nodes"]
        with open(self.path("ext"), "w") as f:
            f.write("subjectAltName=%s\n" % names)
        self._openssl("req", *NEW_KEY, *secret, "-keyout", self.key(name), "-out", self.path(name + ".csr"), "-subj", "/CN=" + name)
        self._openssl("x509", "-req", "-in", self.path(name + ".csr"), "-CA", self.ca, "-CAkey", self.key("ca"), "-CAcreateserial",
                      "-out", self.crt(name), "-days", str(days), "-extfile", self.path("ext"))

    def context(self, cert=None, version=None, ca=None):
        """A client's: checks the server against the CA, shows `cert`, speaks only `version` ("1.2", "1.3")."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ca or self.ca)
        if cert:
            context.load_cert_chain(self.crt(cert), self.key(cert))
        if version:
            context.minimum_version = context.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
        return context
