"""A throw-away certificate authority, made anew at each start.

One EC key serves all certificates: making keys is what takes time.  Each way
in which a certificate can be bad has a certificate of its own, good in all
other respects, so that a refusal can have one reason only.
"""

import os
import ssl
import subprocess

GOOD_NAMES = "DNS:localhost,IP:127.0.0.1,IP:::1"
WRONG_NAMES = "DNS:wrong.example"

# Only "openssl ca" can set dates in the past.
CA_CONFIG = """\
[ca]
default_ca = expired
[expired]
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = anything
[anything]
commonName = supplied
"""


def _openssl(folder, *arguments):
    done = subprocess.run(("openssl",) + arguments, cwd=folder,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise RuntimeError("openssl %s failed:\n%s" % (
            arguments[0], done.stdout.decode("utf-8", "replace")))


def _write(folder, name, text):
    with open(os.path.join(folder, name), "w") as file:
        file.write(text)


def _make_authority(folder):
    _openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt",
             "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
             "-subj", "/CN=stand-in CA", "-keyout", "ca.key",
             "-out", "ca.pem", "-addext", "keyUsage=critical,keyCertSign")


def _make_request(folder):
    _openssl(folder, "req", "-newkey", "ec", "-pkeyopt",
             "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
             "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")


def _sign(folder, name, names):
    _write(folder, name + ".ext", "subjectAltName=%s\n" % names)
    _openssl(folder, "x509", "-req", "-in", "server.csr", "-CA", "ca.pem",
             "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
             "-extfile", name + ".ext", "-out", name + ".pem")


def _sign_expired(folder):
    _write(folder, "ca.cnf", CA_CONFIG.format(folder=folder))
    _write(folder, "index.txt", "")
    _write(folder, "serial", "01\n")
    _write(folder, "expired.ext", "subjectAltName=%s\n" % GOOD_NAMES)
    _openssl(folder, "ca", "-batch", "-notext", "-config", "ca.cnf",
             "-in", "server.csr", "-cert", "ca.pem", "-keyfile", "ca.key",
             "-startdate", "20200101000000Z", "-enddate", "20200201000000Z",
             "-extfile", "expired.ext", "-out", "expired.pem")


def _sign_by_itself(folder):
    _openssl(folder, "req", "-x509", "-key", "server.key", "-days", "30",
             "-subj", "/CN=localhost", "-addext",
             "subjectAltName=" + GOOD_NAMES, "-out", "selfsigned.pem")


def make(folder):
    """Fill folder with ca.pem, server.key and NAME.pem for each kind."""
    _make_authority(folder)
    _make_request(folder)
    _sign(folder, "good", GOOD_NAMES)
    _sign(folder, "wronghost", WRONG_NAMES)
    _sign_expired(folder)
    _sign_by_itself(folder)
    # The server under test may run as somebody else.
    os.chmod(os.path.join(folder, "ca.pem"), 0o644)


def context(folder, kind="good", alpn=("http/1.1",)):
    """A server's TLS context with one of the certificates."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(os.path.join(folder, kind + ".pem"),
                        os.path.join(folder, "server.key"))
    tls.set_alpn_protocols(list(alpn))
    return tls


def older_context(folder):
    """TLS 1.2, where 1.3 could be."""
    tls = context(folder)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    return tls


def outdated_context(folder):
    """TLS 1.1 at best, None where the TLS library can't do that any more."""
    tls = context(folder)
    try:
        tls.minimum_version = ssl.TLSVersion.TLSv1
        tls.maximum_version = ssl.TLSVersion.TLSv1_1
        tls.set_ciphers("DEFAULT:@SECLEVEL=0")
    except (ssl.SSLError, ValueError):
        return None
    return tls
