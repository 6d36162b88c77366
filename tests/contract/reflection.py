"""Prints the methods of the contract, as a server describes them by reflection."""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Bearer(grpc.StreamStreamClientInterceptor):
    """Sends the token of the file that is the second argument, if there is one."""

    def intercept_stream_stream(self, continuation, details, requests):
        metadata = [("authorization", f"Bearer {token}") for token in tokens[:1]]
        return continuation(details._replace(metadata=metadata), requests)


tokens = open(sys.argv[2]).read().split() if len(sys.argv) > 2 else []
with grpc.intercept_channel(grpc.insecure_channel(sys.argv[1]), Bearer()) as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    name = "undertone.telephony.v1.Telephony"
    assert name in database.get_services(), database.get_services()
    for method in DescriptorPool(database).FindServiceByName(name).methods:
        print(method.name)
