"""Asks methods of the contract over TLS, with a client certificate and perhaps a token, and prints what each is answered.

    calls.py ADDRESS AUTHORITY CERTIFICATE KEY TOKEN METHOD...

CERTIFICATE, KEY and TOKEN are files, or "" for none.
"""

import sys

import grpc

address, authority, certificate, key, token, *methods = sys.argv[1:]


def read(name):
    with open(name, "rb") as file:
        return file.read()


credentials = grpc.ssl_channel_credentials(
    root_certificates=read(authority),
    private_key=read(key) if key else None,
    certificate_chain=read(certificate) if certificate else None,
)
metadata = [("authorization", "Bearer " + read(token).decode().split()[0])] if token else []
with grpc.secure_channel(address, credentials) as channel:
    for method in methods:
        # An empty message: what is allowed is missing its context.
        ask = channel.unary_stream(f"/undertone.telephony.v1.Telephony/{method}")
        try:
            next(iter(ask(b"", metadata=metadata, timeout=20)))
            print(method, "OK")
        except grpc.RpcError as error:
            print(method, error.code().name)
